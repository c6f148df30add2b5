//! Running a command on the host itself, when no guest can run and the person allowed it. It gives no isolation.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Command;

use crate::capture::Capture;
use crate::command::{CommandLine, CommandOptions, Outcome, Streams, TIMED_OUT};

/// Why the host could not run it.
#[derive(Debug, thiserror::Error)]
pub enum HostCompatError {
    /// The program could not be started.
    #[error("the host cannot run {program:?}")]
    Spawn {
        /// Name of the program.
        program: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The program ran and was lost.
    #[error("the command on the host was lost")]
    Wait(#[source] std::io::Error),
    /// Output cannot be written on this side.
    #[error("the command's output cannot be passed on")]
    Output(#[source] std::io::Error),
    /// A terminal needs a guest.
    #[error("a terminal session needs a guest: it does not run on the host")]
    Terminal,
}

/// How long output is read on once the main process has ended, as in a guest.
const DRAIN: Duration = Duration::from_millis(100);

/// Kills the command's whole process group when dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Gone already is as good.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Runs `command` on this host, in its current directory or `options.cwd`.
pub async fn execute(
    command: &CommandLine,
    options: &CommandOptions,
    streams: &mut Streams,
) -> Result<Outcome, HostCompatError> {
    if streams.terminal.is_some() {
        return Err(HostCompatError::Terminal);
    }
    let argv = command.argv();
    let begin = Instant::now();
    let mut process = Command::new(&argv[0]);
    process.args(&argv[1..]).envs(options.env.iter().cloned()).process_group(0).kill_on_drop(true);
    process.stdin(if streams.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    process.stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(cwd) = &options.cwd {
        process.current_dir(cwd);
    }
    let mut child = match process.spawn() {
        Ok(child) => child,
        Err(source) => {
            let code = match source.kind() {
                std::io::ErrorKind::NotFound => 127,
                std::io::ErrorKind::PermissionDenied => 126,
                _ => {
                    let program = argv[0].to_string_lossy().into_owned();
                    return Err(HostCompatError::Spawn { program, source });
                }
            };
            let why = if code == 127 { "command not found" } else { "cannot be executed" };
            let line = format!("pyro: {}: {why}\n", argv[0].to_string_lossy());
            streams.stderr.write_all(line.as_bytes()).await.map_err(HostCompatError::Output)?;
            let mut stderr = streams.capture();
            stderr.iter_mut().for_each(|capture| capture.push(line.as_bytes()));
            return Ok(Outcome {
                exit_code: code,
                timed_out: false,
                duration: begin.elapsed(),
                stdout: streams.capture().map(Capture::finish),
                stderr: stderr.map(Capture::finish),
                left_running: false,
                unanswered: false,
            });
        }
    };
    let _group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let (mut stdout, mut stderr) = (streams.capture(), streams.capture());
    let (pipe_in, pipe_out, pipe_err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let Streams { stdin, stdout: out, stderr: err, .. } = streams;
    let (status, result) = {
        let feed = async {
            if let (Some(from), Some(mut to)) = (stdin.as_mut(), pipe_in) {
                // A command that closes its input early is not an error.
                let _ = tokio::io::copy(from, &mut to).await;
            }
            std::future::pending::<()>().await;
        };
        let drain = async {
            tokio::try_join!(pass(pipe_out, out, stdout.as_mut()), pass(pipe_err, err, stderr.as_mut()))
                .map(|_| ())
        };
        let limit = async {
            match options.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(feed, drain, limit);
        let mut drained = None;
        let status = loop {
            tokio::select! {
                status = child.wait() => break Some(status.map_err(HostCompatError::Wait)?),
                result = &mut drain, if drained.is_none() => drained = Some(result),
                () = &mut feed => {}
                () = &mut limit => break None,
            }
        };
        if status.is_some() && drained.is_none() {
            drained = tokio::time::timeout(DRAIN, &mut drain).await.ok();
        }
        (status, drained.unwrap_or(Ok(())))
    };
    result?;
    let exit_code = match status {
        None => TIMED_OUT,
        Some(status) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
    };
    Ok(Outcome {
        exit_code,
        timed_out: status.is_none(),
        duration: begin.elapsed(),
        stdout: stdout.map(Capture::finish),
        stderr: stderr.map(Capture::finish),
        left_running: false,
        unanswered: false,
    })
}

async fn pass(
    from: Option<impl AsyncRead + Unpin>,
    to: &mut (dyn AsyncWrite + Send + Unpin),
    mut capture: Option<&mut Capture>,
) -> Result<(), HostCompatError> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = from.read(&mut buffer).await.map_err(HostCompatError::Wait)?;
        if n == 0 {
            return Ok(());
        }
        if let Some(capture) = capture.as_deref_mut() {
            capture.push(&buffer[..n]);
        }
        to.write_all(&buffer[..n]).await.map_err(HostCompatError::Output)?;
        to.flush().await.map_err(HostCompatError::Output)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(words: &[&str], timeout: Option<Duration>) -> Outcome {
        let command = CommandLine::from_words(words.iter().map(Into::into).collect()).unwrap();
        let options = CommandOptions { timeout, ..CommandOptions::default() };
        execute(&command, &options, &mut Streams::captured()).await.unwrap()
    }

    #[tokio::test]
    async fn streams_and_codes_are_the_commands_own() {
        let outcome = run(&["echo out; echo err >&2; exit 3"], None).await;
        assert_eq!(
            (outcome.exit_code, &outcome.stdout.unwrap().bytes[..], &outcome.stderr.unwrap().bytes[..]),
            (3, &b"out\n"[..], &b"err\n"[..])
        );
        assert_eq!(run(&["kill -9 $$"], None).await.exit_code, 137);
        assert_eq!(run(&["/nonexistent", "x"], None).await.exit_code, 127);
        assert_eq!(run(&["/etc/passwd", "x"], None).await.exit_code, 126);
    }

    #[tokio::test]
    async fn nothing_is_captured_unless_asked() {
        let command = CommandLine::from_words(vec!["echo out; echo err >&2".into()]).unwrap();
        let (mut out, from) = tokio::io::duplex(64);
        let mut streams = Streams { stdout: Box::new(from), ..Streams::discarded() };
        let outcome = execute(&command, &CommandOptions::default(), &mut streams).await.unwrap();
        assert_eq!((outcome.exit_code, outcome.stdout, outcome.stderr), (0, None, None));
        drop(streams);
        let mut passed_on = String::new();
        out.read_to_string(&mut passed_on).await.unwrap();
        assert_eq!(passed_on, "out\n");
    }

    #[tokio::test]
    async fn a_timeout_kills_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let line = format!("mkfifo {0}; (cat {0} >/dev/null) & echo $!; wait", fifo.display());
        let outcome = run(&[&line], Some(Duration::from_millis(500))).await;
        assert_eq!((outcome.exit_code, outcome.timed_out), (124, true));
        let child: i32 = String::from_utf8(outcome.stdout.unwrap().bytes).unwrap().trim().parse().unwrap();
        // Killed means gone, or waiting for init to reap it; the kernel takes a moment to get there.
        let ended = || match std::fs::read_to_string(format!("/proc/{child}/stat")) {
            Ok(stat) => stat.split(") ").nth(1).is_some_and(|rest| rest.starts_with(['Z', 'X'])),
            Err(_) => true,
        };
        let waited = Instant::now();
        while !ended() {
            assert!(waited.elapsed() < Duration::from_secs(30), "process {child} outlived its timeout");
            tokio::task::yield_now().await;
        }
    }
}
