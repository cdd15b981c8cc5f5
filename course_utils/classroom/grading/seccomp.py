"""Linux's seccomp: a process gives up system calls for good. What a function that computes needs stays.

The filter is a small program for the kernel's machine (man seccomp(2), bpf in Linux's networking/filter.rst).
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress

# name, number on x86_64, number on aarch64 ("-": not there). Refused whatever their arguments.
REFUSED = """
fork 57 -; vfork 58 -; execve 59 221; execveat 322 281; unshare 272 97; setns 308 268; ptrace 101 117
process_vm_readv 310 270; process_vm_writev 311 271; process_madvise 440 440; process_mrelease 448 448
kcmp 312 272; pidfd_open 434 434; pidfd_getfd 438 438
tkill 200 130; rt_sigqueueinfo 129 138; rt_tgsigqueueinfo 297 240; pidfd_send_signal 424 424
setpriority 141 140; ioprio_set 251 30; sched_setaffinity 203 122; sched_setscheduler 144 119
sched_setparam 142 118; sched_setattr 314 274; migrate_pages 256 238; move_pages 279 239
socket 41 198; bind 49 200; connect 42 203; listen 50 201; accept 43 202; accept4 288 242
io_uring_setup 425 425; io_uring_enter 426 426; io_uring_register 427 427
memfd_create 319 279; memfd_secret 447 447; shmget 29 194; shmat 30 196; msgget 68 186; semget 64 190
mq_open 240 180; userfaultfd 323 282
truncate 76 45; creat 85 -; chmod 90 -; fchmod 91 52; fchmodat 268 53; fchmodat2 452 452; chown 92 -
lchown 94 -; fchown 93 55; fchownat 260 54; utime 132 -; utimes 235 -; futimesat 261 -; utimensat 280 88
setxattr 188 5; lsetxattr 189 6; fsetxattr 190 7; setxattrat 463 463; removexattr 197 14; lremovexattr 198 15
fremovexattr 199 16; removexattrat 466 466; file_setattr 469 469; mkdir 83 -; mkdirat 258 34; rmdir 84 -
unlink 87 -; unlinkat 263 35; rename 82 -; renameat 264 38; renameat2 316 276; link 86 -; linkat 265 37
symlink 88 -; symlinkat 266 36; mknod 133 -; mknodat 259 33; name_to_handle_at 303 264
open_by_handle_at 304 265; fanotify_init 300 262; inotify_init 253 -; inotify_init1 294 26
mount 165 40; umount2 166 39; pivot_root 155 41; chroot 161 51; move_mount 429 429; open_tree 428 428
open_tree_attr 467 467; fsopen 430 430; fsmount 432 432; fsconfig 431 431; fspick 433 433; mount_setattr 442 442
bpf 321 280; perf_event_open 298 241; keyctl 250 219; add_key 248 217; request_key 249 218; init_module 175 105
finit_module 313 273; delete_module 176 106; kexec_load 246 104; kexec_file_load 320 294; reboot 169 142
swapon 167 224; swapoff 168 225; settimeofday 164 170; clock_settime 227 112; adjtimex 159 171
clock_adjtime 305 266; acct 163 89; quotactl 179 60; personality 135 92; syslog 103 116; vhangup 153 58
iopl 172 -; ioperm 173 -; modify_ldt 154 -; quotactl_fd 443 443
"""
# The same for those that are refused only for some arguments.
CLONE, CLONE3, KILL, TGKILL = "clone 56 220", "clone3 435 435", "kill 62 129", "tgkill 234 131"
PRLIMIT, PRCTL, FCNTL, IOCTL = "prlimit64 302 261", "prctl 157 167", "fcntl 72 25", "ioctl 16 29"
NEW_THREAD = 0x10000  # CLONE_THREAD
UNTIE = (1, 4)  # PR_SET_PDEATHSIG, PR_SET_DUMPABLE
REACH_OTHERS = (8, 10, 15, 1024)  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE (who opens the file has to wait)
TYPE_OR_SIGNAL = (0x5412, 0x8901, 0x8902)  # TIOCSTI, FIOSETOWN, SIOCSPGRP
OPENAT2, OPENAT, OPEN = "openat2 437 437", "openat 257 56", "open 2 -"
WRITING = 0o1103  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, which also empties what is opened to be read

MACHINES = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}  # column above, AUDIT_ARCH
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # places in what the kernel hands to the filter
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions
ALLOW, REFUSE, DIE = 0x7FFF0000, 0x00050000, 0x80000000  # answers
NOT_PERMITTED, NOT_THERE = REFUSE | errno.EPERM, REFUSE | errno.ENOSYS
OTHER_NUMBERS = 0x40000000  # x86_64's second set of numbers, x32
SET_FILTER, FILTER_MODE, NO_NEW_PRIVILEGES = 22, 2, 38  # of prctl


def available() -> bool:
    """Whether there is a filter for this machine."""
    return sys.platform == "linux" and platform.machine() in MACHINES and sys.maxsize > 2**32


def works() -> bool:
    """Whether the kernel takes the filter, which some containers and emulated machines do not: a fork tries."""
    child = os.fork()
    if child == 0:
        with suppress(OSError):
            restrict(can_write=True)
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def restrict(can_write: bool) -> None:
    """From here on this process only computes: no programs, sockets, signals to others or changes to files.

    With `can_write` it may open files to write, as is right where something else tells which.
    """
    program = _program(os.getpid(), can_write)
    lines = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(lines))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if libc.prctl(SET_FILTER, FILTER_MODE, header) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def _program(own: int, can_write: bool) -> bytes:
    """The filter for the process with the id `own`."""
    column, architecture = MACHINES[platform.machine()]
    lines = [
        _line(LOAD, ARCHITECTURE),
        _line(EQUAL, architecture, 1, 0),
        _line(RETURN, DIE),
        _line(LOAD, NUMBER),
        _line(AT_LEAST, OTHER_NUMBERS, 0, 1),
        _line(RETURN, NOT_THERE),
    ]
    for call in REFUSED.replace("\n", ";").split(";"):
        lines += _if_called(call, column, [_line(RETURN, NOT_PERMITTED)])
    # Without clone3, whose arguments a filter can't see, libraries turn to clone.
    lines += _if_called(CLONE3, column, [_line(RETURN, NOT_THERE)])
    lines += _if_called(CLONE, column, _only(0, [NEW_THREAD], ANY_BIT))
    lines += _if_called(KILL, column, _only(0, [own]))
    lines += _if_called(TGKILL, column, _only(0, [own]))
    lines += _if_called(PRLIMIT, column, _only(0, [0, own]))
    lines += _if_called(PRCTL, column, _never(0, UNTIE))
    lines += _if_called(FCNTL, column, _never(1, REACH_OTHERS))
    lines += _if_called(IOCTL, column, _never(1, TYPE_OR_SIGNAL))
    if not can_write:
        lines += _if_called(OPENAT2, column, [_line(RETURN, NOT_THERE)])
        lines += _if_called(OPENAT, column, _never(2, [WRITING], ANY_BIT))
        lines += _if_called(OPEN, column, _never(1, [WRITING], ANY_BIT))
    lines.append(_line(RETURN, ALLOW))
    return b"".join(lines)


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; the last two are lines to jump over."""
    return struct.pack("HBBI", code, if_true, if_false, value)


def _if_called(call: str, column: int, then: list[bytes]) -> list[bytes]:
    """`then`, which has to return, for one system call; nothing where this machine does not have it."""
    words = call.split()
    if not words or words[column] == "-":
        return []
    return [_line(EQUAL, int(words[column]), 0, len(then)), *then]


def _only(argument: int, values: Iterable[int], test: int = EQUAL) -> list[bytes]:
    """Allow the call for these values (32 bits) of an argument."""
    lines = [_line(LOAD, ARGUMENTS + 8 * argument)]
    for value in values:
        lines += [_line(test, value, 0, 1), _line(RETURN, ALLOW)]
    return [*lines, _line(RETURN, NOT_PERMITTED)]


def _never(argument: int, values: Iterable[int], test: int = EQUAL) -> list[bytes]:
    """Refuse the call for these values (32 bits) of an argument."""
    lines = [_line(LOAD, ARGUMENTS + 8 * argument)]
    for value in values:
        lines += [_line(test, value, 0, 1), _line(RETURN, NOT_PERMITTED)]
    return [*lines, _line(RETURN, ALLOW)]
