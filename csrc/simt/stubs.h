// An instruction that stops the process, for the assembler: linked in place of functions that tests must not call.
#pragma once

#if defined(__x86_64__)
#define SIMT_TRAP ud2
#elif defined(__aarch64__)
#define SIMT_TRAP brk #1
#else
#define SIMT_TRAP .long 0
#endif
