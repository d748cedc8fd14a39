"""The shim that runs CUDA kernels on a CPU: correct ones pass, each planted defect is caught."""

import ctypes
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import simt_build  # noqa: E402

HERE = Path(__file__).resolve().parent / "simt"
SOURCES = (HERE / "kernels.cu", HERE / "defects.cu")
CUDA_ERROR, UNSUPPORTED, NO_CUDA = 4, 2, 3
ORDERS = (0, 1, 2, 3, 4)  # forward, backward, three shuffles
THREADS = 256


@pytest.fixture(scope="module")
def library():
    return simt_build.load(simt_build.simt_library(SOURCES))


@pytest.fixture(autouse=True)
def defaults(library):
    yield
    library.simt_set_order(0)
    library.simt_set_limits(90, 132, 227 * 1024)
    library.spectralops_record_end()


def floats(values):
    values = list(values)
    return (ctypes.c_float * len(values))(*values)


def run(library, kernel, x, size, blocks=1, threads=THREADS, shared=0, n=None, order=0):
    """The status, the error text, and y (NaN before the launch)."""
    function = getattr(library, "shim_" + kernel)
    sizes = [ctypes.c_longlong, ctypes.c_longlong, ctypes.c_int, ctypes.c_longlong]
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *sizes]
    y = floats([float("nan")] * size)
    library.simt_set_order(order)
    n = len(x) if n is None else n
    status = function(ctypes.addressof(x), ctypes.addressof(y), n, blocks, threads, shared)
    text = library.spectralops_last_error().decode() if status else ""
    return status, text, list(y)


def ramp(n):
    return floats((3 * i) % 17 - 5 for i in range(n))


# ---- correct kernels ----


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threads", [32, 96, 256, 1024])
def test_block_sum(library, order, threads):
    blocks, shared = 7, 4 * threads
    x = ramp(blocks * threads - 11)
    status, text, y = run(library, "block_sum", x, blocks, blocks, threads, shared, order=order)
    assert status == 0, text
    assert y == [sum(x[b * threads : (b + 1) * threads]) for b in range(blocks)]


@pytest.mark.parametrize("order", ORDERS)
def test_collectives(library, order):
    status, text, y = run(library, "collectives", floats([0]), 21 * 64, threads=64, order=order)
    assert status == 0, text

    def segment(lane, width):
        return lane - lane % width, lane - lane % width + width - 1

    def up(lane, delta, width):
        return lane - delta if lane - delta >= segment(lane, width)[0] else lane

    def down(lane, delta, width):
        return lane + delta if lane + delta <= segment(lane, width)[1] else lane

    def xor(lane, mask, width):
        return lane ^ mask if lane ^ mask <= segment(lane, width)[1] else lane

    for t in range(64):
        lane, base = t % 32, t - t % 32
        half = range(base + lane // 16 * 16, base + lane // 16 * 16 + 16)
        sources = [5, (lane + 1) % 32, lane - lane % 8 + 3]
        sources += [up(lane, 3, 32), up(lane, 3, 8), down(lane, 3, 32), down(lane, 3, 8)]
        sources += [xor(lane, 9, 32), xor(lane, 9, 8), lane ^ 1]
        want = [100 + base + s for s in sources]
        want += [11, lane >= 16, lane < 16, sum(100 + u for u in half)]
        want += [-(100 + base + 31), -(100 + base)]
        want += [100 + (t ^ 1), 100.5 + (t ^ 1), 13, 3]
        want += [100 + (t ^ 2) if lane < 16 else 100 + base + max(lane - 1, 16)]
        assert [y[64 * k + t] for k in range(21)] == want, t


def test_intrinsics(library):
    status, text, y = run(library, "intrinsics", floats([0]), 12, threads=32)
    assert status == 0, text
    assert y[:11] == [1.0] * 11 and y[11] != y[11]


def test_switching_through_ucontext():
    """What machines other than x86-64 use."""
    other = simt_build.load(simt_build.simt_library(SOURCES, defines=("SPECTRALOPS_SIMT_UCONTEXT",)))
    x = ramp(7 * 96)
    for order in ORDERS:
        status, text, y = run(other, "block_sum", x, 7, 7, 96, 4 * 96, order=order)
        assert status == 0, text
        assert y == [sum(x[b * 96 : (b + 1) * 96]) for b in range(7)]
        assert run(other, "barrier_after_return", x, 96, threads=96, n=3, order=order)[0] == CUDA_ERROR


def test_two_threads_at_once(library):
    results = {}

    def work(k):
        x = ramp(64 * 128)
        got = run(library, "block_sum", x, 64, 64, 128, 512)
        sums = [sum(x[b * 128 : (b + 1) * 128]) for b in range(64)]
        results[k] = got[0] == 0 and got[2] == sums

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert results == dict.fromkeys(range(4), True)


def test_rate(library):
    """Fast enough that whole operators can be tested: far above a hundred blocks of 256 threads a second."""
    blocks = 400
    x = ramp(blocks * THREADS)
    started = time.process_time()  # of this process: the machine may be busy with others
    status, text, _ = run(library, "block_sum", x, blocks, blocks, shared=4 * THREADS)
    rate = blocks / (time.process_time() - started)
    assert status == 0, text
    assert rate > 200, f"{rate:.0f} blocks a second"


# ---- planted races ----


RACES = [("missing_barrier", THREADS), ("missing_second_barrier", THREADS), ("missing_syncwarp", 32)]


@pytest.mark.parametrize("kernel, threads", RACES)
def test_a_race_changes_the_answer(library, kernel, threads):
    x, how = floats(range(1, threads + 1)), dict(threads=threads, shared=4 * threads)
    answers = [run(library, kernel, x, threads, order=o, **how) for o in ORDERS]
    assert all(status == 0 for status, _, _ in answers)
    bits = [struct.pack(f"{threads}f", *y) for _, _, y in answers]
    assert bits[0] != bits[1]  # forward and backward
    assert len(set(bits)) > 2  # and shuffled


def test_a_correct_kernel_has_one_answer_in_every_order(library):
    x = floats(i * 0.37 - 20 for i in range(5 * THREADS))
    how = dict(blocks=5, shared=4 * THREADS)
    answers = [run(library, "block_sum", x, 5, order=o, **how)[2] for o in ORDERS]
    assert all(a == answers[0] for a in answers)


def test_blocks_that_depend_on_each_other(library):
    answers = [run(library, "blocks_depend", floats([0]), 9, 9, 32, order=o)[2] for o in ORDERS]
    assert answers[0] == list(range(1, 10))
    assert answers[1][-1] != answers[1][-1]  # NaN: the last block came first
    assert all(sorted(a) != answers[0] for a in answers[1:])


# ---- planted memory errors ----


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("kernel, at", [("shared_overrun", 200), ("shared_underrun", -4)])
def test_a_write_outside_dynamic_shared_memory(library, kernel, at, order):
    # 200 bytes: the first write past them is still within what is allocated in units of 16.
    status, text, _ = run(library, kernel, ramp(50), 50, threads=50, shared=200, order=order)
    assert status == CUDA_ERROR
    assert f"shim_test::{kernel}" in text and "block (0, 0, 0)" in text
    assert f"outside dynamic shared memory, at byte {at} of 200" in text


UNWRITTEN = ["uninitialised_dynamic", "uninitialised_static", "shared_read_overrun"]


@pytest.mark.parametrize("kernel", UNWRITTEN)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_what_was_not_written_is_nan(library, kernel, order):
    # A second block must not find the first one's values either.
    how = dict(blocks=3, shared=4 * THREADS, order=order)
    status, text, y = run(library, kernel, ramp(1), THREADS, **how)
    assert status == 0, text
    assert all(v != v for v in y)


def sanitized(sanitize, kernel, threads=64, n=0, shared=0):
    """The kernel in a Python of its own, x and y of exactly `threads` floats from malloc."""
    if not simt_build.has_sanitizer(sanitize):
        pytest.skip(f"the compiler has no {sanitize} sanitizer")
    path = simt_build.simt_library(SOURCES, sanitize)
    code = f"""
import ctypes
library = ctypes.CDLL({str(path)!r})
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
x, y = libc.malloc({4 * threads}), libc.malloc({4 * threads})
ctypes.memset(x, 0, {4 * threads})
f = library.shim_{kernel}
pointer, size = ctypes.c_void_p, ctypes.c_longlong
f.argtypes = [pointer, pointer, size, size, ctypes.c_int, size]
print("status", f(x, y, {n}, 2, {threads}, {shared}), flush=True)
"""
    return simt_build.run_sanitized(sanitize, code)


@pytest.mark.parametrize("kernel, what, shared", [
    ("global_overrun", "heap-buffer-overflow", 0),
    ("global_read_overrun", "heap-buffer-overflow", 0),
    ("shared_overrun", "use-after-poison", 256),
    ("shared_read_overrun", "use-after-poison", 256),
])
def test_address_sanitizer(kernel, what, shared):
    done = sanitized("address", kernel, shared=shared)
    assert done.returncode != 0 and "status" not in done.stdout
    assert what in done.stderr and f"shim_test::{kernel}" in done.stderr, done.stderr[-2000:]


@pytest.mark.parametrize("kernel, what, n", [
    ("misaligned_vector", "misaligned address", 0),
    ("static_overrun", "out of bounds", 1),
])
def test_undefined_behaviour_sanitizer(kernel, what, n):
    done = sanitized("undefined", kernel, n=n)
    assert done.returncode != 0 and "status" not in done.stdout
    assert what in done.stderr and "defects.cu" in done.stderr, done.stderr[-2000:]


@pytest.mark.parametrize("sanitize", ["address", "undefined"])
def test_sanitizers_pass_what_is_correct_and_survive_errors(sanitize):
    assert sanitized(sanitize, "correct").stdout == "status 0\n"
    done = sanitized(sanitize, "block_sum", shared=256, n=64)
    assert done.stdout == "status 0\n", done.stderr[-2000:]
    done = sanitized(sanitize, "barrier_after_return", n=10)
    assert done.stdout == f"status {CUDA_ERROR}\n", done.stderr[-2000:]


# ---- planted divergence ----

DIVERGENT = {
    "mask_without_self": "mask 0000ffff leaves out the calling lane",
    "mask_with_returned_lane": "return",
    "masks_disagree": "mask ffffffff",
    "masks_overlap": "deadlock: thread",
    "mask_with_waiting_lane": "waits at __syncthreads",
    "reads_outside_mask": "reads lane 16, which is not in its mask 0000ffff",
    "different_calls": "lanes of one mask meet in different calls",
    "different_lines": "lanes of one mask meet in different calls",
    "barrier_after_return": "divergent barrier",
    "barrier_in_branches": "divergent barrier",
    "barrier_in_loop": "divergent barrier",
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernel", DIVERGENT)
def test_divergence_is_an_error(library, kernel, order):
    x = ramp(64)
    status, text, _ = run(library, kernel, x, 64, blocks=3, threads=64, n=40, order=order)
    assert status == CUDA_ERROR
    assert DIVERGENT[kernel] in text, text
    for part in (f"shim_test::{kernel}: block (", "thread", "defects.cu:"):
        assert part in text, text
    # Nothing of the abandoned block is left over.
    assert run(library, "correct", x, 64, threads=64)[2] == list(x)
    assert run(library, "block_sum", x, 1, threads=64, shared=256, order=order)[2] == [sum(x)]


def test_a_mask_beyond_the_block(library):
    status, text, _ = run(library, "mask_beyond_block", ramp(48), 48, threads=48)
    assert status == CUDA_ERROR and "names lanes that a block of 48 threads does not have" in text


@pytest.mark.parametrize("how, text", [
    (dict(threads=1025), "1025 threads, a block has 1 to 1024"),
    (dict(threads=0), "0 threads"),
    (dict(shared=227 * 1024 + 1), "232449 bytes of shared memory, the limit is 232448"),
    (dict(blocks=2**31), "outside CUDA's limits"),
])
def test_launches_outside_the_limits(library, how, text):
    status, said, _ = run(library, "correct", ramp(1), 1, **how)
    assert status == CUDA_ERROR and text in said and "shim_test::correct" in said


def test_the_limit_of_shared_memory_can_be_set(library):
    x = ramp(THREADS)
    library.simt_set_limits(80, 108, 1023)
    assert run(library, "block_sum", x, 1, shared=1024)[0] == CUDA_ERROR
    library.simt_set_limits(80, 108, 1024)
    assert run(library, "block_sum", x, 1, shared=1024)[2] == [sum(x)]


# ---- recording ----


def recorded(library):
    launches = []
    for index in range(library.spectralops_record_end()):
        name, params = ctypes.c_char_p(), ctypes.c_void_p()
        shared, size = ctypes.c_int64(), ctypes.c_int64()
        grid, block = (ctypes.c_int64 * 3)(), (ctypes.c_int64 * 3)()
        outs = [ctypes.addressof(o) for o in (name, grid, block, shared, params, size)]
        simt_build.check(library, library.spectralops_record_get(index, *outs))
        data = ctypes.string_at(params.value, size.value)
        launches.append((name.value.decode(), tuple(grid), tuple(block), shared.value, data))
    return launches


def planned(library, three_d=0):
    function = library.shim_planned_sum
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int]
    return function(0x1234, 0x5678, 99, three_d)


def assert_records(library):
    simt_build.check(library, library.spectralops_record_begin(64, 21, 100_000))
    assert planned(library) == 0 and planned(library, 1) == 0
    name, params = "shim_test::block_sum<double, -1>", struct.pack("QQq", 0x1234, 0x5678, 99)
    assert recorded(library) == [
        (name, (21, 1, 1), (64, 1, 1), 50_000, params),
        (name, (2, 3, 4), (64, 1, 1), 50_000, params),
    ]


def test_recording(library):
    assert_records(library)
    assert len(recorded(library)) == 2  # kept until the next begin
    simt_build.check(library, library.spectralops_record_begin(90, 1, 0))
    assert recorded(library) == []


def test_recording_checks_launches(library):
    begin = library.spectralops_record_begin
    assert begin(1, 1, 0) and "sm must be" in library.spectralops_last_error().decode()
    assert begin(90, 0, 0) and "sm_count" in library.spectralops_last_error().decode()
    assert begin(90, 1, -1) and "shared_limit" in library.spectralops_last_error().decode()
    simt_build.check(library, begin(90, 132, 1000))
    for how in (dict(threads=1025), dict(shared=1001), dict(blocks=2**31)):
        status, text, _ = run(library, "correct", ramp(1), 1, **how)
        assert status == CUDA_ERROR and text.startswith("shim_test::correct: ")
    status, text, _ = run(library, "nameless", ramp(1), 1)
    assert status == UNSUPPORTED and "without a name" in text
    assert run(library, "correct", ramp(1), 1, blocks=0)[0] == 0  # an empty grid is no launch
    assert recorded(library) == []
    assert library.spectralops_record_get(0, *[0] * 6) != 0


def test_recording_belongs_to_a_thread(library):
    simt_build.check(library, library.spectralops_record_begin(90, 1, 1000))
    x, result = ramp(64), {}

    def work():
        result["y"] = run(library, "correct", x, 64, threads=64)[2]

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert result["y"] == list(x)
    assert run(library, "correct", x, 64, threads=64)[2] != list(x)
    assert len(recorded(library)) == 1


def test_a_library_that_only_records():
    """As a build without nvcc makes it: no shim linked, nothing undefined, nothing run."""
    library = ctypes.CDLL(str(simt_build.record_only_library(SOURCES)))
    simt_build.declare(library)
    assert planned(library) == NO_CUDA
    assert "without its CUDA part" in library.spectralops_last_error().decode()
    assert_records(library)
    assert planned(library) == NO_CUDA


SIGNATURE = "const char* spectralops::encoded_name() [with auto Kernel = {}]"


@pytest.mark.parametrize("encoded, name", [
    ("spectralops::f<float, 5>", "spectralops::f<float, 5>"),
    ("f", "f"),
    (SIGNATURE.format("spectralops::kern<float, 5, 2>"), "spectralops::kern<float, 5, 2>"),
    (SIGNATURE.format("& ns::f<ns::half_t, (ns::V)1>"), "ns::f<ns::half_t, (ns::V)1>"),
    (SIGNATURE.format("(& ns::f<ns::A<int[3]>, true>)"), "ns::f<ns::A<int[3]>, true>"),
    (SIGNATURE.format("ns::f<float>; i64 = long long int"), "ns::f<float>"),
    ("const char *pretty() [Kernel = &ns::f<float, 5>]", "ns::f<float, 5>"),
    ("ns::KernelName<&(void ns::f<float, (ns::V)1, 3ll>(ns::P))>", "ns::f<float, (ns::V)1, 3ll>"),
    ("ns::KernelName<&(ns::plain(ns::P))>", "ns::plain"),
    (SIGNATURE.format("{anonymous}::f<float>"), ""),
    ("ns::KernelName<&((anonymous namespace)::f(ns::P))>", ""),
    ("", ""),
])
def test_kernel_names(library, encoded, name):
    out = ctypes.create_string_buffer(300)
    library.shim_kernel_name.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
    library.shim_kernel_name(encoded.encode(), out, 300)
    assert out.value.decode() == name


def test_a_mangled_name_is_read(library):
    encoded = "N11spectralops10KernelNameIXadL_ZNS_6reduceINS_6half_tELi5ELNS_3VerE1ELb1ELxn7EEE"
    encoded += "vNS_1PEEEEE"
    want = "spectralops::reduce<spectralops::half_t, 5, (spectralops::Ver)1, true, -7ll>"
    test_kernel_names(library, encoded, want)


# ---- the builder ----


def test_a_failed_compilation_says_why(tmp_path):
    source = tmp_path / "wrong.cu"
    source.write_text('#include "spectralops/types.h"\nint value = undeclared_name;\n')
    with pytest.raises(RuntimeError, match="undeclared_name"):
        simt_build.simt_library([source])


def test_an_edit_is_noticed_and_nothing_else_is_compiled(tmp_path, monkeypatch):
    header, source = tmp_path / "value.h", tmp_path / "value.cpp"
    function = 'extern "C" __attribute__((visibility("default"))) int value() { return VALUE; }'
    source.write_text(f'#include "value.h"\n{function}\n')
    commands, real = [], simt_build._run

    def logged(command):
        commands.append(command)
        real(command)

    monkeypatch.setattr(simt_build, "_run", logged)
    simt_build.simt_library([])
    for value, compiled in ((1, 1), (1, 0), (2, 1), (1, 0)):
        header.write_text(f"#define VALUE {value}\n")
        commands.clear()
        path = simt_build.simt_library([source])
        code = f"import ctypes; print(ctypes.CDLL({str(path)!r}).value())"
        assert subprocess.check_output([sys.executable, "-c", code], text=True) == f"{value}\n"
        assert sum("-c" in command for command in commands) == compiled
