//! Runs a command in a guest, from words to an exit code, with its streams flowing as they come.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, Instant};

use pyro_proto::message::{Bytes, ExecRequest, ExecStdio, ExitStatus, Failure, FailureKind};
use pyro_vmm::{Death, Watch};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::capture::{Capture, Captured};
use crate::failure;
use crate::guest::{Execution, Guest, GuestError, Input, Output, OutputEvent};
use crate::launch::GRACE;
use pyro_formats::redact::Redactor;

pub use pyro_proto::message::TerminalSize;

/// The exit code of a command whose time was up.
pub const TIMED_OUT: i32 = 124;
/// How long a command's output is read on once its main process has ended.
const DRAIN: Duration = Duration::from_millis(100);
/// How much longer than the command's own timeout the guest is given to kill it and say so.
const KILL_GRACE: Duration = Duration::from_secs(15);

/// A command as a person gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// A shell command line.
    Shell(OsString),
    /// Several words: an argument vector that no shell touches.
    Argv(Vec<OsString>),
}

impl CommandLine {
    /// Takes one word as a line for `sh -c` and several as an argument vector; none or only blanks is nothing to run.
    pub fn from_words(mut words: Vec<OsString>) -> Option<Self> {
        match words.len() {
            0 => None,
            1 => {
                let line = words.remove(0);
                let blank = line.as_bytes().iter().all(u8::is_ascii_whitespace);
                (!blank).then_some(Self::Shell(line))
            }
            _ if words[0].is_empty() => None,
            _ => Some(Self::Argv(words)),
        }
    }

    /// The argument vector to execute.
    pub fn argv(&self) -> Vec<OsString> {
        match self {
            Self::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
            Self::Argv(words) => words.clone(),
        }
    }

    /// The same without what is not to be seen, for showing: word by word, before any quoting.
    pub fn redacted(&self, redactor: &Redactor) -> Self {
        let clean = |word: &OsString| OsString::from_vec(redactor.bytes(word.as_bytes()));
        match self {
            Self::Shell(line) => Self::Shell(clean(line)),
            Self::Argv(words) => Self::Argv(words.iter().map(clean).collect()),
        }
    }

    /// The program that a person would say this runs.
    fn program(&self) -> String {
        match self {
            Self::Shell(_) => "/bin/sh".into(),
            Self::Argv(words) => {
                words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default()
            }
        }
    }
}

/// As payloads show it: a shell line as it is, a vector joined with shell quoting.
impl std::fmt::Display for CommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shell(line) => f.write_str(&line.to_string_lossy()),
            Self::Argv(words) => {
                for (at, word) in words.iter().enumerate() {
                    let space = if at == 0 { "" } else { " " };
                    write!(f, "{space}{}", quoted(word))?;
                }
                Ok(())
            }
        }
    }
}

fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r#"'"'"'"#))
    }
}

/// How a command is run.
#[derive(Clone, Debug, Default)]
pub struct CommandOptions {
    /// Killed, with all it started, after so long; `None` for never.
    pub timeout: Option<Duration>,
    /// Added to the guest's default environment.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory instead of the guest's default.
    pub cwd: Option<OsString>,
    /// User instead of root.
    pub user: Option<String>,
}

/// Where a command's streams go on this side.
pub struct Streams {
    /// Fed to the command; `None` gives it empty input.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Gets its standard output, or its terminal's.
    pub stdout: Box<dyn AsyncWrite + Send + Unpin>,
    /// Gets its standard error.
    pub stderr: Box<dyn AsyncWrite + Send + Unpin>,
    /// Runs it on a terminal of this size; the channel tells later sizes.
    pub terminal: Option<(TerminalSize, mpsc::Receiver<TerminalSize>)>,
    /// Whether the outcome holds the first and the last MiB of each output as well.
    pub captured: bool,
}

impl Streams {
    /// Empty input; output goes nowhere.
    pub fn discarded() -> Self {
        Self {
            stdin: None,
            stdout: Box::new(tokio::io::sink()),
            stderr: Box::new(tokio::io::sink()),
            terminal: None,
            captured: false,
        }
    }

    /// Empty input; output goes nowhere but to the outcome.
    pub fn captured() -> Self {
        Self { captured: true, ..Self::discarded() }
    }

    /// A new capture of one output, if captures are wanted.
    pub(crate) fn capture(&self) -> Option<Capture> {
        self.captured.then(Capture::default)
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exit code; 128 and the signal's number when one killed it, 124 when its time was up, 127 and 126 when it
    /// could not be found or executed.
    pub exit_code: i32,
    /// Whether its time was up.
    pub timed_out: bool,
    /// From its start to its end; for a command that never started, until that was known.
    pub duration: Duration,
    /// Both ends of its standard output, if its streams are captured.
    pub stdout: Option<Captured>,
    /// Both ends of its standard error, if its streams are captured.
    pub stderr: Option<Captured>,
    /// Processes that it started still run.
    pub left_running: bool,
    /// The guest said nothing of it when its time and some more were up: whether it ran, or runs on, is not known.
    pub unanswered: bool,
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The guest refused it before anything ran.
    #[error("the guest cannot run the command")]
    Refused(#[source] Failure),
    /// The VM ended under it.
    #[error("the virtual machine ended while the command ran: {}", last_words(.0))]
    VmDied(Death),
    /// The conversation with the guest broke.
    #[error("the guest was lost while the command ran")]
    Guest(#[source] GuestError),
    /// Output cannot be written on this side, as when the reader of a pipe went away.
    #[error("the command's output cannot be passed on")]
    Output(#[source] std::io::Error),
}

impl CommandError {
    /// Kind of the failure, for programs.
    pub fn kind(&self) -> failure::FailureKind {
        match self {
            Self::Refused(failure) => failure.kind.into(),
            Self::VmDied(_) => failure::FailureKind::GuestEnded,
            Self::Guest(error) => error.kind(),
            Self::Output(_) => failure::FailureKind::Failed,
        }
    }
}

fn last_words(death: &Death) -> String {
    let tail = death.console_tail.trim();
    if tail.is_empty() { death.to_string() } else { format!("{death}; its console ends:\n{tail}") }
}

/// Runs `command` and passes its streams on until it ends. Dropping the future kills it.
pub async fn execute(
    guest: &Guest,
    watch: &Watch,
    command: &CommandLine,
    options: &CommandOptions,
    streams: &mut Streams,
) -> Result<Outcome, CommandError> {
    let request = ExecRequest {
        argv: command.argv().into_iter().map(|word| Bytes(word.into_vec())).collect(),
        env: options.env.iter().map(|(k, v)| (k.as_bytes().into(), v.as_bytes().into())).collect(),
        cwd: options.cwd.as_ref().map(|cwd| cwd.as_bytes().into()),
        user: options.user.clone(),
        stdio: match (&streams.terminal, &streams.stdin) {
            (Some((size, _)), _) => ExecStdio::Terminal(*size),
            (None, Some(_)) => ExecStdio::Piped,
            (None, None) => ExecStdio::Output,
        },
        timeout_ms: options.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        drain_ms: DRAIN.as_millis() as u64,
    };
    let (mut stdout, mut stderr) = (streams.capture(), streams.capture());
    let talk = async |place| {
        let Execution { mut output, mut input } =
            guest.exec(place, request).await.map_err(CommandError::Guest)?;
        let Streams { stdin, stdout: out, stderr: err, terminal, .. } = streams;
        let feeding = feed(&mut input, stdin.as_mut(), terminal.as_mut().map(|(_, sizes)| sizes));
        let mut sinks = Sinks { out, err, stdout: stdout.as_mut(), stderr: stderr.as_mut() };
        let draining = drain(&mut output, &mut sinks);
        tokio::pin!(feeding, draining);
        tokio::select! {
            biased;
            exit = &mut draining => exit,
            // Input that cannot be sent any more says nothing that the output does not say better.
            _ = &mut feeding => draining.await,
        }
    };
    let limit = options.timeout.map(|timeout| timeout + KILL_GRACE);
    // The command's time begins when there is a place for it.
    let place = tokio::select! {
        biased;
        place = guest.place_for_command() => place.map_err(CommandError::Guest)?,
        death = watch.ended() => return Err(CommandError::VmDied(death)),
    };
    let begin = Instant::now();
    let limited = async {
        match limit {
            Some(limit) => tokio::time::timeout(limit, talk(place)).await.ok(),
            None => Some(talk(place).await),
        }
    };
    let ended = tokio::select! {
        biased;
        ended = limited => ended,
        death = watch.ended() => return Err(CommandError::VmDied(death)),
    };
    let mut outcome = Outcome {
        exit_code: TIMED_OUT,
        timed_out: true,
        duration: begin.elapsed(),
        stdout: None,
        stderr: None,
        left_running: true,
        unanswered: ended.is_none(),
    };
    match ended {
        // The guest had its time and its grace and killed nothing: the caller takes the whole VM down.
        None => {}
        Some(Ok(exit)) => {
            outcome.timed_out = exit.timed_out;
            outcome.duration = Duration::from_micros(exit.duration_us);
            outcome.left_running = exit.left_running;
            outcome.exit_code = match exit.status {
                _ if exit.timed_out => TIMED_OUT,
                ExitStatus::Code(code) => i32::from(code),
                ExitStatus::Signal(signal) => 128 + i32::from(signal),
            };
        }
        Some(Err(CommandError::Guest(GuestError::Failed(failure)))) => {
            let (code, why) = match failure.kind {
                FailureKind::NotFound => (127, "command not found"),
                FailureKind::NotExecutable => (126, "cannot be executed"),
                FailureKind::TooLong => (126, "argument list too long"),
                _ => return Err(CommandError::Refused(failure)),
            };
            let line = format!("pyro: {}: {why}\n", command.program());
            stderr.iter_mut().for_each(|capture| capture.push(line.as_bytes()));
            streams.stderr.write_all(line.as_bytes()).await.map_err(CommandError::Output)?;
            streams.stderr.flush().await.map_err(CommandError::Output)?;
            outcome = Outcome { exit_code: code, timed_out: false, left_running: false, ..outcome };
        }
        Some(Err(CommandError::Guest(error))) => {
            // A stream that breaks is mostly a VM that just ended, and its death says more.
            return Err(match tokio::time::timeout(GRACE, watch.ended()).await {
                Ok(death) => CommandError::VmDied(death),
                Err(_) => CommandError::Guest(error),
            });
        }
        Some(Err(other)) => return Err(other),
    }
    outcome.stdout = stdout.map(Capture::finish);
    outcome.stderr = stderr.map(Capture::finish);
    Ok(outcome)
}

struct Sinks<'a> {
    out: &'a mut (dyn AsyncWrite + Send + Unpin),
    err: &'a mut (dyn AsyncWrite + Send + Unpin),
    stdout: Option<&'a mut Capture>,
    stderr: Option<&'a mut Capture>,
}

async fn drain(
    output: &mut Output,
    sinks: &mut Sinks<'_>,
) -> Result<pyro_proto::message::CommandExit, CommandError> {
    loop {
        let (sink, capture, bytes) = match output.next().await.map_err(CommandError::Guest)? {
            OutputEvent::Started(_) => continue,
            OutputEvent::Stdout(bytes) => (&mut sinks.out, &mut sinks.stdout, bytes),
            OutputEvent::Stderr(bytes) => (&mut sinks.err, &mut sinks.stderr, bytes),
            OutputEvent::Exited(exit) => return Ok(exit),
        };
        if let Some(capture) = capture {
            capture.push(bytes);
        }
        sink.write_all(bytes).await.map_err(CommandError::Output)?;
        sink.flush().await.map_err(CommandError::Output)?;
    }
}

/// Passes input and terminal sizes on until both are over. Sizes never wait behind input that nobody takes.
async fn feed(
    input: &mut Input,
    mut stdin: Option<&mut Box<dyn AsyncRead + Send + Unpin>>,
    mut sizes: Option<&mut mpsc::Receiver<TerminalSize>>,
) -> Result<(), GuestError> {
    let mut buffer = vec![0; if stdin.is_some() { Input::MAX_WRITE } else { 0 }];
    let (mut start, mut end) = (0, 0);
    loop {
        if stdin.is_none() && sizes.is_none() && start == end {
            return Ok(());
        }
        let read = async {
            match stdin.as_mut() {
                Some(stdin) => stdin.read(&mut buffer).await,
                None => std::future::pending().await,
            }
        };
        let size = async {
            match sizes.as_mut() {
                Some(sizes) => sizes.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            n = read, if start == end => match n {
                // Input that breaks on this side ends there, as for any filter whose source fails.
                Ok(0) | Err(_) => {
                    stdin = None;
                    input.eof().await?;
                }
                Ok(n) => (start, end) = (0, n),
            },
            credit = input.credit(end - start), if start < end => {
                start += input.write(credit?, &buffer[start..end]).await?;
            }
            new = size => match new {
                Some(new) => input.resize(new).await?,
                None => sizes = None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Option<CommandLine> {
        CommandLine::from_words(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn one_word_is_a_shell_line_and_several_are_a_vector() {
        let line = words(&["echo $HOME | wc -c"]).unwrap();
        assert_eq!(line.argv(), ["/bin/sh", "-c", "echo $HOME | wc -c"]);
        assert_eq!(line.to_string(), "echo $HOME | wc -c");
        let argv = words(&["printf", "%s", "a b", "it's", ""]).unwrap();
        assert_eq!(argv.argv(), ["printf", "%s", "a b", "it's", ""]);
        assert_eq!(argv.to_string(), r#"printf %s 'a b' 'it'"'"'s' ''"#);
    }

    #[test]
    fn nothing_to_run_is_no_command() {
        assert_eq!(words(&[]), None);
        assert_eq!(words(&[""]), None);
        assert_eq!(words(&[" \n"]), None);
        assert_eq!(words(&["", "x"]), None);
    }
}
