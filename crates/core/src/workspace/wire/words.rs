//! A command's words on the wire: JSON text, or bytes where a word is none.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

use crate::command::CommandLine;

/// A command's words. How many there are decides whether a shell reads them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words(Vec<Word>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Word {
    Text(String),
    Bytes(Vec<u8>),
}

impl Words {
    /// The words of `command`.
    pub fn new(command: &CommandLine) -> Self {
        let word = |word: &OsStr| match word.to_str() {
            Some(text) => Word::Text(text.to_owned()),
            None => Word::Bytes(word.as_bytes().to_vec()),
        };
        Self(match command {
            CommandLine::Shell(line) => vec![word(line)],
            CommandLine::Argv(words) => words.iter().map(|each| word(each)).collect(),
        })
    }

    /// The command; `None` where there is nothing to run.
    pub fn command(self) -> Option<CommandLine> {
        let word = |word| match word {
            Word::Text(text) => OsString::from(text),
            Word::Bytes(bytes) => OsString::from_vec(bytes),
        };
        CommandLine::from_words(self.0.into_iter().map(word).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::wire::Exec;

    #[test]
    fn words_keep_bytes_that_are_no_text() {
        let words = vec![OsString::from("printf"), OsString::from_vec(vec![0xff, b'x'])];
        let command = CommandLine::from_words(words).unwrap();
        let call = Exec { command: Words::new(&command), timeout_ms: Some(5), secret_env: Vec::new() };
        let back: Exec = serde_json::from_slice(&serde_json::to_vec(&call).unwrap()).unwrap();
        assert_eq!(back.command.command(), Some(command));
    }
}
