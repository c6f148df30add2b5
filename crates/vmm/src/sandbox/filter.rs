//! Seccomp filter: refuses system calls that no VMM makes and that help a VMM that was taken over.
//!
//! The seccomp filter that a VMM installs itself is narrower; this one applies before the program's first
//! instruction, holds where the host allows no namespaces, and closes what QEMU's leaves open: sockets.
//!
//! The filter also closes what landlock leaves open: modes, owners and times of files, and truncation on kernels with
//! an early landlock.

use std::io;

use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// A compiled filter, ready to be installed.
pub(super) type SeccompProgram = BpfProgram;

/// Number in asm/unistd_64.h of a system call newer than libc.
const SETXATTRAT: libc::c_long = 463;
const REMOVEXATTRAT: libc::c_long = 466;

/// Bit in the numbers of the x32 ABI, which has the same calls again under the same architecture.
const X32_BIT: u32 = 0x4000_0000;

/// Calls whose flags are behind a pointer, which a filter cannot follow. They fail with ENOSYS, so that a C library
/// uses the older call.
const ENOSYS_CALLS: [libc::c_long; 2] = [libc::SYS_clone3, libc::SYS_openat2];

/// Clone flags for namespaces, over which a child would have every capability.
const NAMESPACE_FLAGS: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Length in bytes up to which a block gets no huge pages (2 MiB each).
const SMALL_BLOCK: u64 = 4 << 20;

/// Mask of the part of a socket's type that is no flag.
const SOCKET_TYPE_MASK: u64 = 0xf;

/// System calls refused whatever their arguments.
const REFUSED_CALLS: &[libc::c_long] = &[
    // Other processes. `tgkill` and `tkill` are how threads of one process signal each other.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setaffinity,
    // Other programs' sockets: a VMM is given its own, or waits to be called.
    libc::SYS_connect,
    // Memory that is no process's, which no limit but a cgroup's counts; and other programs' shared memory and queues.
    libc::SYS_memfd_secret,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semctl,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_msgget,
    libc::SYS_msgctl,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // Changes that an owner may make to a file without opening it for writing.
    libc::SYS_truncate,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_chown,
    libc::SYS_fchown,
    libc::SYS_lchown,
    libc::SYS_fchownat,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SETXATTRAT,
    REMOVEXATTRAT,
    // The file system's shape, and ways around its paths.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_fsconfig,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    // Large parts of the kernel that a VMM has no use for.
    libc::SYS_bpf,
    libc::SYS_fanotify_init,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // The host's.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_syslog,
];

/// Compiles the filter of a VMM. With `sockets` it may make Unix stream sockets to listen on, otherwise no sockets at
/// all.
pub(super) fn program(sockets: bool) -> io::Result<SeccompProgram> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let mut rules: Vec<(libc::c_long, Vec<SeccompRule>)> =
        REFUSED_CALLS.iter().map(|call| (*call, Vec::new())).collect();

    // A message to a datagram socket needs no connection, only its address.
    let types = [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET];
    let types = || {
        types
            .map(|kind| argument_rule(1, MaskedEq(SOCKET_TYPE_MASK), kind))
            .into_iter()
            .collect::<io::Result<Vec<_>>>()
    };
    rules.push((libc::SYS_socketpair, types()?));
    let mut refused_sockets = Vec::new();
    if sockets {
        // Without a network namespace other families would reach the host's network; vsock has no namespaces at all.
        refused_sockets = types()?;
        refused_sockets.push(argument_rule(0, Ne, libc::AF_UNIX)?);
    } else {
        // Firecracker, the only VMM with sockets, keeps the queue of its vsock in a memfd.
        rules.push((libc::SYS_memfd_create, Vec::new()));
    }
    rules.push((libc::SYS_socket, refused_sockets));

    let namespaces =
        NAMESPACE_FLAGS.map(|flag| argument_rule(0, MaskedEq(u64::from(flag.unsigned_abs())), flag));
    rules.push((libc::SYS_clone, namespaces.into_iter().collect::<io::Result<_>>()?));

    // Refused: open for reading with truncation, and open for neither reading nor writing, which landlock does not
    // check.
    let reads_and_cuts = u64::from((libc::O_ACCMODE | libc::O_TRUNC).unsigned_abs());
    let accesses = u64::from(libc::O_ACCMODE.unsigned_abs());
    for (call, flags) in [(libc::SYS_open, 1), (libc::SYS_openat, 2)] {
        let cuts = argument_rule(flags, MaskedEq(reads_and_cuts), libc::O_TRUNC)?;
        rules.push((call, vec![cuts, argument_rule(flags, MaskedEq(accesses), libc::O_ACCMODE)?]));
    }
    // The VMM must not undo its parent-death signal.
    rules.push((libc::SYS_prctl, vec![argument_rule(0, Eq, libc::PR_SET_PDEATHSIG)?]));
    // A small block would get a huge page for its first byte: QEMU's ACPI tables use a tenth of one.
    let small = condition(1, SeccompCmpArgLen::Qword, SeccompCmpOp::Le, SMALL_BLOCK)?;
    let huge = condition(2, SeccompCmpArgLen::Dword, Eq, u64::from(libc::MADV_HUGEPAGE.unsigned_abs()))?;
    rules.push((libc::SYS_madvise, vec![SeccompRule::new(vec![small, huge]).map_err(io::Error::other)?]));
    // A VMM may read and lower its own limits.
    rules.push((libc::SYS_prlimit64, vec![argument_rule(0, Ne, 0)?]));

    let refuse = SeccompAction::Errno(number(Errno::PERM));
    let filter: BpfProgram =
        SeccompFilter::new(rules.into_iter().collect(), SeccompAction::Allow, refuse, TargetArch::x86_64)
            .and_then(TryInto::try_into)
            .map_err(io::Error::other)?;
    Ok(prologue().into_iter().chain(filter).collect())
}

/// Makes a rule that compares the lower 32 bits of one argument.
fn argument_rule(argument: u8, op: SeccompCmpOp, value: libc::c_int) -> io::Result<SeccompRule> {
    let condition = condition(argument, SeccompCmpArgLen::Dword, op, u64::from(value.unsigned_abs()))?;
    SeccompRule::new(vec![condition]).map_err(io::Error::other)
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    op: SeccompCmpOp,
    value: u64,
) -> io::Result<SeccompCondition> {
    SeccompCondition::new(argument, length, op, value).map_err(io::Error::other)
}

/// Instructions before the compiled filter, for two cases that its compiler cannot express: ENOSYS for
/// [`ENOSYS_CALLS`], EPERM for x32.
fn prologue() -> [sock_filter; 7] {
    // linux/bpf_common.h, linux/seccomp.h
    const LOAD: u16 = 0x20;
    const JUMP: u16 = 0x05;
    const JUMP_EQ: u16 = 0x15;
    const JUMP_GE: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const OFFSET_OF_NUMBER: u32 = 0;
    let line = |code, k, jt| sock_filter { code, jt, jf: 0, k };
    let [clone3, openat2] = ENOSYS_CALLS.map(|call| u32::try_from(call).unwrap_or(u32::MAX));
    [
        line(LOAD, OFFSET_OF_NUMBER, 0),
        line(JUMP_GE, X32_BIT, 3),
        line(JUMP_EQ, clone3, 3),
        line(JUMP_EQ, openat2, 2),
        line(JUMP, 2, 0),
        line(RETURN, libc::SECCOMP_RET_ERRNO | number(Errno::PERM), 0),
        line(RETURN, libc::SECCOMP_RET_ERRNO | number(Errno::NOSYS), 0),
    ]
}

fn number(errno: Errno) -> u32 {
    errno.raw_os_error().unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: i32 = 0;

    /// Makes system calls in a thread of its own under the filter; their errors.
    fn errors<const N: usize>(sockets: bool, calls: [(libc::c_long, [libc::c_long; 4]); N]) -> [i32; N] {
        let filtered = move || {
            seccompiler::apply_filter(&program(sockets).unwrap()).unwrap();
            calls.map(|(call, [a, b, c, d])| {
                // SAFETY: each call of these tests is refused, or harmless: what they point to is null, or a C string.
                let done = unsafe { libc::syscall(call, a, b, c, d, 0, 0) };
                let error = io::Error::last_os_error().raw_os_error().unwrap_or(FREE);
                if done < 0 { error } else { FREE }
            })
        };
        std::thread::spawn(filtered).join().unwrap()
    }

    fn long(number: i32) -> libc::c_long {
        number.into()
    }

    #[test]
    fn every_way_around_is_closed() {
        let (at, own) = (long(libc::AT_FDCWD), c"/proc/self/exe".as_ptr() as libc::c_long);
        let x32 = libc::c_long::from(X32_BIT);
        let stream = long(libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
        let refused = errors(
            true,
            [
                (x32 | libc::SYS_getppid, [0; 4]),
                (x32 | 541, [0; 4]),
                (libc::SYS_clone, [long(libc::CLONE_NEWUSER | libc::SIGCHLD), 0, 0, 0]),
                (libc::SYS_clone, [long(libc::CLONE_NEWNET | libc::CLONE_VM), 0, 0, 0]),
                (libc::SYS_openat, [at, own, long(libc::O_TRUNC | libc::O_CLOEXEC), 0]),
                (libc::SYS_openat, [at, own, long(libc::O_ACCMODE), 0]),
                (libc::SYS_open, [own, long(libc::O_ACCMODE | libc::O_TRUNC), 0, 0]),
                (libc::SYS_truncate, [own, 0, 0, 0]),
                (libc::SYS_socket, [long(libc::AF_INET), stream, 0, 0]),
                (libc::SYS_socket, [long(libc::AF_UNIX), long(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC), 0, 0]),
                (libc::SYS_socket, [long(libc::AF_UNIX), long(libc::SOCK_SEQPACKET), 0, 0]),
                (libc::SYS_socketpair, [long(libc::AF_UNIX), long(libc::SOCK_DGRAM), 0, 0]),
                (libc::SYS_prlimit64, [1, 0, 0, 0]),
                (libc::SYS_prctl, [long(libc::PR_SET_PDEATHSIG), 0, 0, 0]),
                (libc::SYS_setpriority, [0, 0, 19, 0]),
            ],
        );
        assert_eq!(refused, [libc::EPERM; 15]);
        let missing = errors(true, ENOSYS_CALLS.map(|call| (call, [0; 4])));
        assert_eq!(missing, [libc::ENOSYS; 2], "a C library falls back to the older calls on this alone");
        let unix = (libc::SYS_socket, [long(libc::AF_UNIX), stream, 0, 0]);
        let memory = (libc::SYS_memfd_create, [c"x".as_ptr() as libc::c_long, 0, 0, 0]);
        assert_eq!(errors(false, [unix, memory]), [libc::EPERM; 2], "a VMM without sockets of its own");
    }

    #[test]
    fn huge_pages_are_for_what_is_large() {
        // Nothing is mapped there: what is let through finds that out.
        let ask = |bytes: u64| (libc::SYS_madvise, [0, bytes as libc::c_long, long(libc::MADV_HUGEPAGE), 0]);
        let done = errors(false, [ask(2 << 20), ask(SMALL_BLOCK), ask(52 << 20)]);
        assert_eq!(done, [libc::EPERM, libc::EPERM, libc::ENOMEM]);
    }

    #[test]
    fn what_a_vmm_does_is_left_alone() {
        let (at, own) = (long(libc::AT_FDCWD), c"/proc/self/exe".as_ptr() as libc::c_long);
        let calls = [
            (libc::SYS_socket, [long(libc::AF_UNIX), long(libc::SOCK_STREAM | libc::SOCK_NONBLOCK), 0, 0]),
            (libc::SYS_openat, [at, own, long(libc::O_CLOEXEC), 0]),
            (libc::SYS_prlimit64, [0, 0, 0, 0]),
            (libc::SYS_getppid, [0; 4]),
        ];
        assert_eq!(errors(true, calls), [FREE; 4]);
        let threads = std::thread::spawn(|| {
            seccompiler::apply_filter(&program(false).unwrap()).unwrap();
            std::thread::spawn(|| 7).join().unwrap()
        });
        assert_eq!(threads.join().unwrap(), 7);
    }
}
