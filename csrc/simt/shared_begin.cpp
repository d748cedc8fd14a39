// Linked before every kernel's object: the start of their thread-local, zero-initialised storage (static shared memory).
extern __thread __attribute__((visibility("hidden"), aligned(64))) unsigned char simt_shared_begin[64];
__thread unsigned char simt_shared_begin[64];
