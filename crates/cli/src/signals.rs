//! SIGINT, SIGTERM and SIGHUP end a command the orderly way: what it owns is dropped, and with it every VM. SIGXFSZ ends
//! nothing: a file that would grow beyond its limit is an error of the one who writes it.

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::CliError;

/// Makes writes beyond the limit of file sizes (`ulimit -f`) fail with EFBIG, for the life of the process. Must be called in
/// a runtime.
///
/// The signal is handled and not ignored, so that programs which are started get it as the system has it: what a process
/// ignores its children ignore too.
pub fn survive_file_limit() -> std::io::Result<()> {
    // The handler stays when its stream goes.
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}

/// Runs `command` until it ends or one of the signals comes; dropping it takes its VM down.
pub async fn interruptible(command: impl Future<Output = Result<u8, CliError>>) -> Result<u8, CliError> {
    let signals = [(SignalKind::interrupt(), 2), (SignalKind::terminate(), 15), (SignalKind::hangup(), 1)];
    let mut waits = Vec::new();
    for (kind, number) in signals {
        match signal(kind) {
            Ok(mut stream) => waits.push(Box::pin(async move {
                stream.recv().await;
                number
            })),
            Err(error) => return Err(CliError::new(format!("cannot watch for signals: {error}"), None)),
        }
    }
    let mut waits = waits.into_iter();
    let (Some(int), Some(term), Some(hup)) = (waits.next(), waits.next(), waits.next()) else {
        return command.await;
    };
    tokio::select! {
        biased;
        number = int => Err(CliError::Signal(number)),
        number = term => Err(CliError::Signal(number)),
        number = hup => Err(CliError::Signal(number)),
        result = command => result,
    }
}
