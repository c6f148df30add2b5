//! A failure at the edge: printed once, with what to do next.

use std::io;

use pyro_core::cause;
use pyro_core::command::CommandError;
use pyro_core::environment::EnvironmentError;
use pyro_core::host_compat::HostCompatError;
use pyro_core::vm::VmError;
use pyro_core::workspace::WorkspaceError;
use serde_json::json;

use crate::hint;
use crate::output::{self, errln, outln};

/// Everything that ends a command without its result.
#[derive(Debug)]
pub enum CliError {
    /// pyro failed: exit 1, `[error] message`, and a hint where there is one.
    Failed {
        /// Failure and cause, in one line or with a console's tail beneath.
        message: String,
        /// Next step for the person.
        hint: Option<String>,
    },
    /// A signal ended it: exit 128 and its number.
    Signal(u8),
    /// Whoever read our output went away: say nothing, exit as a program that SIGPIPE killed.
    OutputClosed,
    /// The command line makes no sense: exit 2.
    Usage(String),
}

impl CliError {
    /// A failure with a hint.
    pub fn new(message: impl Into<String>, hint: Option<String>) -> Self {
        Self::Failed { message: message.into(), hint }
    }

    /// A result that could not be written.
    pub fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::new(format!("the output cannot be written: {error}"), None),
        }
    }

    /// Prints it and gives the exit code. With `json` the object goes to stdout, as every result does.
    pub fn report(self, json: bool) -> u8 {
        match self {
            Self::Failed { message, hint } => {
                if json {
                    let mut object = json!({"ok": false, "error": message});
                    if let Some(hint) = &hint {
                        object["hint"] = hint.as_str().into();
                    }
                    print_json(&object);
                }
                // What standard output does not take is said, not lost.
                if !json || output::failure().is_some() {
                    errln!("[error] {message}");
                    if let Some(hint) = hint {
                        errln!("        {hint}");
                    }
                }
                1
            }
            Self::Signal(number) => 128 + number,
            Self::OutputClosed => 128 + 13,
            Self::Usage(message) => {
                errln!("error: {message}\n\nFor more information, try '--help'.");
                2
            }
        }
    }
}

impl From<VmError> for CliError {
    fn from(error: VmError) -> Self {
        if let VmError::Command(CommandError::Output(source))
        | VmError::HostCompat(HostCompatError::Output(source)) = &error
            && source.kind() == io::ErrorKind::BrokenPipe
        {
            return Self::OutputClosed;
        }
        Self::new(cause::chain(&error), error.hint().as_ref().map(hint::for_people))
    }
}

impl From<WorkspaceError> for CliError {
    fn from(error: WorkspaceError) -> Self {
        if let WorkspaceError::Vm(error) = error {
            return error.into();
        }
        Self::new(cause::chain(&error), error.hint().as_ref().map(hint::for_people))
    }
}

impl From<EnvironmentError> for CliError {
    fn from(error: EnvironmentError) -> Self {
        Self::new(cause::chain(&error), error.hint().as_ref().map(hint::for_people))
    }
}

/// Whether all that was printed has left this process.
///
/// # Errors
/// [`CliError::OutputClosed`] when its reader went away, else a failure with its cause.
pub fn printed() -> Result<(), CliError> {
    output::failure().map_or(Ok(()), |error| Err(CliError::output(error)))
}

/// Prints one JSON object as every `--json` does: two-space indent, keys sorted.
pub fn print_json(value: &serde_json::Value) {
    // serde_json's maps are sorted by key unless a feature says otherwise.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    outln!("{text}");
}
