//! A configuration file, changed all at once or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::Unmerged;
use crate::error::CliError;

/// How often a change is made again because somebody else wrote the file meanwhile.
const TRIES: usize = 5;

/// A change that is not made yet.
pub struct Edit {
    /// Where the file itself is, a link followed.
    real: PathBuf,
    old: Option<String>,
    new: String,
}

impl Edit {
    /// Reads `path` and changes what it read; an empty text for a file that is not there.
    pub fn prepare(path: &Path, change: impl Fn(&str) -> Result<String, Unmerged>) -> Result<Self, CliError> {
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
                path.to_owned()
            }
            Err(error) => return Err(failed(path, "found")(error)),
        };
        let old = read(&real).map_err(failed(path, "read"))?;
        let new = change(old.as_deref().unwrap_or_default()).map_err(|why| {
            let hint = match why {
                Unmerged::Other { .. } => "give this one another name with --name",
                _ => "mend it by hand, or add by hand what is printed without --write",
            };
            CliError::new(format!("{} stays as it is: {why}", path.display()), Some(hint.into()))
        })?;
        Ok(Self { real, old, new })
    }

    /// Text of the file as it is now; `None` when there is no file.
    pub fn before(&self) -> Option<&str> {
        self.old.as_deref()
    }

    /// Text that the file is to have.
    pub fn text(&self) -> &str {
        &self.new
    }

    /// Whether the file has that text already.
    pub fn is_nothing(&self) -> bool {
        self.old.as_deref() == Some(&self.new)
    }

    /// Puts a new file in place of the old; `false` when that is no longer the one that was read.
    fn commit(&self) -> io::Result<bool> {
        let dir = self.real.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir)?;
        let there = fs::metadata(&self.real).ok();
        let mode = there.as_ref().map_or(0o666, |meta| meta.permissions().mode() & 0o7777);
        let mut builder = tempfile::Builder::new();
        let mut file =
            builder.prefix(".pyro-mcp-").permissions(fs::Permissions::from_mode(mode)).tempfile_in(dir)?;
        if let Some(meta) = there {
            // Somebody else's, such as a user's that root configures for: it stays his, or it is left alone.
            let made = file.as_file().metadata()?;
            if (made.uid(), made.gid()) != (meta.uid(), meta.gid()) {
                std::os::unix::fs::fchown(file.as_file(), Some(meta.uid()), Some(meta.gid()))?;
            }
            // Whatever the umask took from it.
            file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        }
        file.write_all(self.new.as_bytes())?;
        file.as_file().sync_all()?;
        if read(&self.real)? != self.old {
            return Ok(false);
        }
        file.persist(&self.real).map_err(|error| error.error)?;
        File::open(dir)?.sync_all()?;
        Ok(true)
    }
}

/// Changes `path`; `false` when there was nothing to change.
pub fn write(path: &Path, change: impl Fn(&str) -> Result<String, Unmerged>) -> Result<bool, CliError> {
    for _ in 0..TRIES {
        let edit = Edit::prepare(path, &change)?;
        if edit.is_nothing() {
            return Ok(false);
        }
        if edit.commit().map_err(failed(path, "written"))? {
            return Ok(true);
        }
    }
    let hint = "close the client and try again".to_owned();
    Err(CliError::new(format!("{} is being written by somebody else", path.display()), Some(hint)))
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match path.metadata() {
        Ok(meta) if !meta.is_file() => Err(io::Error::other("it is no file")),
        Ok(_) => fs::read_to_string(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(path: &Path, doing: &'static str) -> impl Fn(io::Error) -> CliError {
    move |error| CliError::new(format!("{} cannot be {doing}: {error}", path.display()), None)
}
