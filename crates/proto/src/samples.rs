//! Samples of the messages about jobs, files and trees, for the frozen schema.

use crate::frame::encode;
use crate::message::*;

macro_rules! framed {
    ($($value:expr),* $(,)?) => {
        vec![$((stringify!($value), encode(&$value).unwrap())),*]
    };
}

/// Samples, one of each message.
pub fn workspace() -> Vec<(&'static str, Vec<u8>)> {
    let id = JobId([0xab; 6]);
    let size = TerminalSize { rows: 30, cols: 120 };
    let path = || Bytes::from("a/b");
    let exec = ExecRequest {
        argv: vec!["sh".into()],
        env: Vec::new(),
        cwd: None,
        user: None,
        stdio: ExecStdio::Terminal(size),
        timeout_ms: None,
        drain_ms: 100,
    };
    let exit = CommandExit {
        status: ExitStatus::Code(3),
        timed_out: false,
        duration_us: 70_000,
        left_running: true,
    };
    let job = JobInfo { id, pid: 300, terminal: true, exit: Some(exit), kept_from: 1, written: 300 };
    let entry = |kind| FileEntry {
        path: path(),
        kind,
        mode: 0o644,
        size: 300,
        mtime_ns: -1,
        links: 1,
        target: Some("c".into()),
    };
    let state = FileState { kind: FileKind::File, mode: 0o755, size: 1 };
    let change = |kind| FileChange { path: path(), kind, before: Some(state), after: None };
    let amount = TreeTotals { entries: 2, bytes: 300 };
    let ops = vec![
        FileOp::Write { path: path(), len: 300, mode: Some(0o600) },
        FileOp::Delete { path: path() },
        FileOp::Link { path: path(), target: "d".into() },
    ];
    framed![
        Request::JobStart(JobStart { id, exec: exec.clone() }),
        Request::JobAttach { id, cursor: 300 },
        Request::JobInput { id, bytes: "ls\n".into() },
        Request::JobResize { id, size },
        Request::JobSignal { id, signal: 2 },
        Request::JobStop { id, grace_ms: 5000 },
        Request::JobList,
        Request::JobForget { id },
        Request::Probe(ServiceProbe::Tcp { port: 8080 }),
        Request::Probe(ServiceProbe::Http { url: "http://127.0.0.1/".to_owned() }),
        Request::Probe(ServiceProbe::File { path: path() }),
        Request::FileList { path: path(), recursive: true },
        Request::FileRead { path: path(), offset: 1, limit: 300 },
        Request::FileWrite { path: path(), mode: Some(0o600), parents: true },
        Request::FileStat { path: path() },
        Request::FileBatch(FileBatch { ops: ops.clone(), prune: true }),
        Request::TreePut(TreePut { dest: path(), max_entries: 10, max_bytes: 300 }),
        Request::TreeGet { path: path() },
        Request::BaselineTake { name: Some("fork-1".to_owned()), keep: None },
        Request::DiffScan { baseline: None },
        Request::Sync,
        Request::Freeze { max_ms: 300 },
        Request::SecretPut { name: "TOKEN".to_owned(), bytes: "abcd".into() },
        Reply::Started { pid: 300 },
        Reply::Attached { from: 300 },
        Reply::Ended(exit),
        Reply::Taken { bytes: 300 },
        Reply::Jobs(vec![job]),
        Reply::Probed(ProbeResult::Ready),
        Reply::Probed(ProbeResult::NotReady("no".to_owned())),
        Reply::Entries(vec![entry(FileKind::File), entry(FileKind::Directory)]),
        Reply::Entries(vec![entry(FileKind::Link), entry(FileKind::Other)]),
        Reply::Listed { truncated: true },
        Reply::Stat(entry(FileKind::File)),
        Reply::Progress(amount),
        Reply::Put(amount),
        Reply::Got { sent: amount, skipped: 1 },
        Reply::Baseline { entries: 300 },
        Reply::Changes(vec![change(FileChangeKind::Added), change(FileChangeKind::Deleted)]),
        Reply::Changes(vec![change(FileChangeKind::Modified), change(FileChangeKind::Touched)]),
        Reply::Changes(vec![change(FileChangeKind::Type), change(FileChangeKind::Mode)]),
        Reply::Scanned { entries: 300 },
        Reply::Thawed { timed_out: true },
    ]
}
