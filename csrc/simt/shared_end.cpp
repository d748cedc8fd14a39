// Linked after every kernel's object: where their thread-local, zeroed storage ends (static shared memory).
extern __thread __attribute__((visibility("hidden"), aligned(64))) unsigned char simt_shared_end[64];
__thread unsigned char simt_shared_end[64];
