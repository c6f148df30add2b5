//! A child process from a [`SpawnPlan`].
//!
//! The child is made by `clone3` with `CLONE_VFORK | CLONE_VM`, like `posix_spawn` does it: nothing is copied, and a
//! failure in the child is written where the agent reads it. `CLONE_INTO_CGROUP` puts it into its cgroup at birth;
//! moving it later would cost an RCU grace period. The agent stands still until the child has executed its program.

use std::arch::asm;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};

use pyro_proto::message::{Failure, FailureKind};
use rustix::io::Errno;
use rustix::process::Pid;

use super::plan::SpawnPlan;
use crate::failure::{failure, refusal, resource_kind};

/// Set-up of children, which differs between a guest's PID 1 and a plain process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChildSetup {
    /// Make each command the subreaper of its tree, so that the tree can be found by walking `/proc`.
    pub subreaper: bool,
    /// The limit on open files that children get: soft, hard.
    pub open_files: Option<(u64, u64)>,
}

/// The child's standard streams.
#[derive(Clone, Copy, Debug)]
pub struct ChildStreams<'a> {
    /// Standard input, output and error. None of them may be 0, 1 or 2.
    pub fds: [BorrowedFd<'a>; 3],
    /// Whether they are a terminal, which becomes the child's controlling one.
    pub terminal: bool,
}

/// Makes children; holds the stack they run on until they execute their program.
pub struct Spawner {
    setup: ChildSetup,
    stack: Vec<u128>,
}

/// Of `clone3`'s flags word, beyond 32 bits.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Size of a child's stack, in words of 16 bytes: 64 KiB.
const STACK: usize = 4096;

/// Stage at which a child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum SpawnStage {
    None,
    Setup,
    Terminal,
    User,
    Directory,
    Exec,
}

/// Arguments of the child, and the place for its failure. Everything that is pointed to was made before the child.
struct ChildJob {
    plan: *const SpawnPlan,
    argv: *const *const c_char,
    envp: *const *const c_char,
    /// `sh`, and room for the script before the arguments; see [`execute`].
    script_argv: *mut *const c_char,
    fds: [c_int; 3],
    terminal: bool,
    setup: ChildSetup,
    stage: SpawnStage,
    errno: c_int,
}

impl Spawner {
    /// Makes children as `setup` says.
    pub fn new(setup: ChildSetup) -> Self {
        Self { setup, stack: vec![0; STACK] }
    }

    /// Starts `plan`, inside `cgroup` if given, as the leader of a session of its own. An `Err` means that no child
    /// is left, or a dead one that the reaper takes.
    pub fn spawn(
        &mut self,
        plan: &SpawnPlan,
        streams: ChildStreams<'_>,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<Pid, SpawnError> {
        let pointers = |words: &[CString]| -> Vec<*const c_char> {
            words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let argv = pointers(&plan.argv);
        let envp = pointers(&plan.env);
        // sh, script, the arguments after the program's name, null.
        let mut script_argv = vec![c"/bin/sh".as_ptr(), std::ptr::null()];
        script_argv.extend(&argv[1..]);
        let mut job = ChildJob {
            plan,
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            script_argv: script_argv.as_mut_ptr(),
            fds: streams.fds.map(|fd| fd.as_raw_fd()),
            terminal: streams.terminal,
            setup: self.setup,
            stage: SpawnStage::None,
            errno: 0,
        };
        // SAFETY: clone_args is a plain struct of integers, for which zero means "unused".
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        args.stack = self.stack.as_mut_ptr() as u64;
        args.stack_size = (self.stack.len() * size_of::<u128>()) as u64;
        if let Some(cgroup) = cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = cgroup.as_raw_fd() as u64;
        }
        // SAFETY: the process is single-threaded and stands still until the child has executed or exited, so `job`,
        // all that it points to and the child's stack outlive the child's use of them, and nobody else touches them.
        let result = unsafe { clone_vfork(&args, child, &mut job) };
        // SAFETY: `job` is read after the child is done with it; volatile, since it was written behind the compiler's
        // back.
        let (stage, errno) =
            unsafe { (std::ptr::read_volatile(&job.stage), std::ptr::read_volatile(&job.errno)) };
        if result < 0 {
            return Err(SpawnError::Clone(Errno::from_raw_os_error(-result as i32)));
        }
        if stage != SpawnStage::None {
            return Err(SpawnError::Child(stage, Errno::from_raw_os_error(errno)));
        }
        Pid::from_raw(result as i32).ok_or(SpawnError::Clone(Errno::SRCH))
    }
}

/// Failure to start a child.
#[derive(Debug)]
pub enum SpawnError {
    /// No child was made.
    Clone(Errno),
    /// The child failed before its program ran.
    #[expect(private_interfaces, reason = "only this module tells the stages apart")]
    Child(SpawnStage, Errno),
}

impl SpawnError {
    /// The failure to tell the host.
    pub fn describe(self, plan: &SpawnPlan) -> Failure {
        let show = |word: &CStr| word.to_string_lossy().into_owned();
        let program = plan.argv.first().map(|word| show(word)).unwrap_or_default();
        match self {
            Self::Clone(errno) => failure(resource_kind(errno), "spawn", errno, "no new process"),
            Self::Child(SpawnStage::Directory, errno) => {
                let directory = plan.directories.last().map(|word| show(word)).unwrap_or_default();
                failure(FailureKind::BadDirectory, "cwd", errno, directory)
            }
            Self::Child(SpawnStage::User, errno) => {
                failure(FailureKind::Unsupported, "user", errno, "changing the user")
            }
            Self::Child(SpawnStage::Terminal, errno) => {
                failure(resource_kind(errno), "terminal", errno, "the terminal")
            }
            Self::Child(SpawnStage::None | SpawnStage::Setup, errno) => {
                failure(resource_kind(errno), "setup", errno, "preparing the command")
            }
            Self::Child(SpawnStage::Exec, errno) => {
                let kind = match errno {
                    Errno::NOENT | Errno::NOTDIR => FailureKind::NotFound,
                    Errno::TOOBIG => FailureKind::TooLong,
                    Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE => FailureKind::Exhausted,
                    _ => FailureKind::NotExecutable,
                };
                let slash = program.contains('/');
                if kind == FailureKind::NotFound && !slash {
                    let mut failure = refusal(kind, "exec", format!("{program}: command not found"));
                    failure.errno = Some(errno.raw_os_error());
                    return failure;
                }
                failure(kind, "exec", errno, program)
            }
        }
    }
}

/// Clones with `args`, which must set `CLONE_VM`, `CLONE_VFORK` and a stack; the child calls `entry(job)`. Returns the
/// child's process id or a negated error number.
///
/// # Safety
/// The caller is single-threaded; `args.stack` is writable, unused, ends 16-byte aligned and is large enough for
/// `entry`, and `job` is valid for it.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_vfork(
    args: &libc::clone_args,
    entry: unsafe extern "C" fn(*mut ChildJob) -> !,
    job: *mut ChildJob,
) -> isize {
    let result: isize;
    // SAFETY: the parent sees an ordinary system call, which clobbers rax, rcx and r11 only. The child starts after the
    // same instruction on its own stack, never returns from `entry`, and so never touches this frame.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") job,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The child, from its birth to its program. It shares the agent's memory: it allocates nothing, takes no lock, and
/// changes nothing but `job`'s result and errno.
///
/// # Safety
/// Only as the entry of [`clone_vfork`], with a job whose pointers are valid.
unsafe extern "C" fn child(job: *mut ChildJob) -> ! {
    // SAFETY: as promised by the caller; the parent does not look until this process is gone or executed.
    unsafe {
        let job = &mut *job;
        let stage = prepare(job);
        job.errno = *libc::__errno_location();
        job.stage = stage;
        libc::_exit(127)
    }
}

/// Does everything; returns the stage that failed, with errno set.
///
/// # Safety
/// As [`child`].
unsafe fn prepare(job: &mut ChildJob) -> SpawnStage {
    // SAFETY: plain system calls on values that were made for them; pointers come from `job`, as promised.
    unsafe {
        let plan = &*job.plan;
        if libc::setsid() < 0 {
            return SpawnStage::Setup;
        }
        for (target, fd) in job.fds.iter().enumerate() {
            if libc::dup2(*fd, target as c_int) < 0 {
                return SpawnStage::Setup;
            }
        }
        if job.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
            return SpawnStage::Terminal;
        }
        if let Some((soft, hard)) = job.setup.open_files {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
        if job.setup.subreaper {
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        }
        if let Some(account) = &plan.account {
            // Raw system calls: the library's wrappers would look for other threads in memory that is not the child's.
            let (gid, uid) = (account.gid as libc::c_long, account.uid as libc::c_long);
            if libc::syscall(libc::SYS_setgroups, account.groups.len(), account.groups.as_ptr()) < 0
                || libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0
                || libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0
            {
                return SpawnStage::User;
            }
        }
        if !plan.directories.iter().any(|directory| libc::chdir(directory.as_ptr()) == 0) {
            return SpawnStage::Directory;
        }
        // The agent ignores SIGPIPE and blocks the signals that it reads from a descriptor; its children do neither.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let none: u64 = 0;
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<c_void>(),
            size_of::<u64>(),
        );
        execute(job, plan);
        SpawnStage::Exec
    }
}

/// Executes the first candidate that exists, as `execvp` does: one that may not be executed is remembered and the
/// search goes on, and a text file without `#!` is given to `/bin/sh`.
///
/// # Safety
/// As [`child`].
unsafe fn execute(job: &mut ChildJob, plan: &SpawnPlan) {
    // SAFETY: as in `prepare`; `script_argv` has room for the script's name at index 1.
    unsafe {
        let mut verdict = libc::ENOENT;
        for candidate in &plan.candidates {
            // Asking is cheaper than a failed execve, which sets up and tears down an address space.
            if plan.candidates.len() > 1 && libc::access(candidate.as_ptr(), libc::F_OK) < 0 {
                continue;
            }
            libc::execve(candidate.as_ptr(), job.argv, job.envp);
            match *libc::__errno_location() {
                libc::ENOEXEC => {
                    *job.script_argv.add(1) = candidate.as_ptr();
                    libc::execve(c"/bin/sh".as_ptr(), job.script_argv, job.envp);
                    verdict = libc::ENOEXEC;
                    break;
                }
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => verdict = libc::EACCES,
                other => {
                    verdict = other;
                    break;
                }
            }
        }
        *libc::__errno_location() = verdict;
    }
}
