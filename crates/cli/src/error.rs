//! A failure at the edge: printed once, with what to do next.

use pyro_core::cause;
use pyro_core::environment::EnvironmentError;
use pyro_core::vm::VmError;
use pyro_core::workspace::WorkspaceError;
use serde_json::json;

use crate::hint;

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

    /// Prints it and gives the exit code. With `json` the object goes to stdout, as every result does.
    pub fn report(self, json: bool) -> u8 {
        match self {
            Self::Failed { message, hint } => {
                if json {
                    let mut object = json!({"ok": false, "error": message});
                    if let Some(hint) = hint {
                        object["hint"] = hint.into();
                    }
                    print_json(&object);
                } else {
                    eprintln!("[error] {message}");
                    if let Some(hint) = hint {
                        eprintln!("        {hint}");
                    }
                }
                1
            }
            Self::Signal(number) => 128 + number,
            Self::OutputClosed => 128 + 13,
            Self::Usage(message) => {
                eprintln!("error: {message}\n\nFor more information, try '--help'.");
                2
            }
        }
    }
}

impl From<VmError> for CliError {
    fn from(error: VmError) -> Self {
        if let VmError::Command(pyro_core::command::CommandError::Output(source)) = &error
            && source.kind() == std::io::ErrorKind::BrokenPipe
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

/// Prints one JSON object as every `--json` does: two-space indent, keys sorted.
pub fn print_json(value: &serde_json::Value) {
    use std::io::Write;
    // serde_json's maps are sorted by key unless a feature says otherwise.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    // A reader that went away gets nothing, and nothing is to be said about it.
    let _ = writeln!(std::io::stdout(), "{text}");
}
