//! `pyro workspace file`.

use std::path::PathBuf;

use clap::Subcommand;
use tokio::io::AsyncRead;

use super::show;
use crate::content::in_base64;
use crate::error::{CliError, print_json};
use crate::output::outln;

/// List, read and write files of a running workspace
#[derive(Subcommand)]
pub enum File {
    /// List a directory of the workspace
    #[command(after_help = "Example:\n  pyro workspace file list repro src --recursive")]
    List(Listing),
    /// Read a text file of the workspace
    #[command(after_help = "Example:\n  pyro workspace file read repro src/main.rs --content-only")]
    Read(Reading),
    /// Make or replace a text file of the workspace, at once; missing directories above it are made
    #[command(after_help = "Example:\n  pyro workspace file write repro notes.txt --text 'to do'")]
    Write {
        /// The workspace's id or name
        workspace_id: String,
        /// The file, below /workspace
        path: PathBuf,
        /// What is to be in it
        #[arg(
            long,
            allow_hyphen_values = true,
            required_unless_present = "text_file",
            conflicts_with = "text_file"
        )]
        text: Option<String>,
        /// The file of this host whose content is to be in it; - for standard input
        #[arg(long, value_name = "PATH")]
        text_file: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What is listed, and how.
#[derive(clap::Args)]
pub struct Listing {
    /// The workspace's id or name
    pub workspace_id: String,
    /// The directory
    #[arg(default_value = "/workspace")]
    pub path: PathBuf,
    /// Also what is in the directories below it
    #[arg(long)]
    pub recursive: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What is read, and how.
#[derive(clap::Args)]
pub struct Reading {
    /// The workspace's id or name
    pub workspace_id: String,
    /// The file
    pub path: PathBuf,
    /// At most so many bytes, 1 to 67108864
    #[arg(long, value_name = "BYTES", default_value_t = 65536, value_parser = clap::value_parser!(u64).range(1..=67_108_864))]
    pub max_bytes: u64,
    /// Print only what is in it, byte for byte but for secrets
    #[arg(long, conflicts_with = "json")]
    pub content_only: bool,
    /// Give the content in base64, for bytes that are no text
    #[arg(long, requires = "json")]
    pub base64: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl File {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let workspaces = super::workspaces(None)?;
        match self {
            Self::List(Listing { workspace_id, path, recursive, json }) => {
                let list = workspaces.list_files(&workspace_id, &path, recursive).await?;
                if json {
                    print_json(&serde_json::to_value(&list).unwrap_or_default());
                } else {
                    show::files(&list.entries, list.truncated);
                }
            }
            Self::Read(Reading { workspace_id, path, max_bytes, content_only, base64, json }) => {
                let (mut read, content) = workspaces.read_file(&workspace_id, &path, 0, max_bytes).await?;
                if base64 {
                    (read.content, read.encoding) = in_base64(&content);
                }
                if json {
                    print_json(&serde_json::to_value(&read).unwrap_or_default());
                } else {
                    show::content(&content, (!content_only).then_some(&read.path))?;
                    show::cut(read.redacted, read.truncated, max_bytes, read.size_bytes);
                }
            }
            Self::Write { workspace_id, path, text, text_file, json } => {
                let mut source = source(text, text_file).await?;
                let written = workspaces.write_file(&workspace_id, &path, &mut source).await?;
                if json {
                    print_json(&serde_json::to_value(&written).unwrap_or_default());
                } else {
                    outln!("{} has {} bytes", show::printable(&written.path), written.size_bytes);
                }
            }
        }
        Ok(0)
    }
}

/// Text that was given, or a file's content.
pub async fn source(
    text: Option<String>,
    file: Option<PathBuf>,
) -> Result<Box<dyn AsyncRead + Unpin>, CliError> {
    let Some(path) = file else {
        return Ok(Box::new(std::io::Cursor::new(text.unwrap_or_default().into_bytes())));
    };
    if path.as_os_str() == "-" {
        return Ok(crate::terminal::input());
    }
    let failed =
        |error: std::io::Error| CliError::new(format!("{} cannot be read: {error}", path.display()), None);
    let file = tokio::fs::File::open(&path).await.map_err(failed)?;
    if file.metadata().await.map_err(failed)?.is_dir() {
        return Err(CliError::new(
            format!("{} is a directory", path.display()),
            Some("`pyro workspace sync push` copies directories".into()),
        ));
    }
    Ok(Box::new(file))
}
