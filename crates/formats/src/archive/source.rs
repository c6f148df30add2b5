//! Tree that a person gives to be copied into a workspace: a directory, or an archive, known by its content.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::check::Check;
use super::read::{Grown, Reader, sum_is_right};
use super::write::Writer;
use super::{ArchiveError, CHUNK, Content, Limits, Meter, Progress, SkippedLink, Totals, walk};
use crate::hostfs::HostPath;

/// A tree of the host.
#[derive(Debug)]
pub struct Source {
    path: HostPath,
    limits: Limits,
    opened: Opened,
}

#[derive(Debug)]
enum Opened {
    Directory(OwnedFd),
    Tar(File),
    Gzip(File),
}

/// Outcome of [`Source::write_to`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Counts of the whole tree.
    pub totals: Totals,
    /// The first hundred links that were left out.
    pub skipped_links: Vec<SkippedLink>,
}

/// Format of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A directory of the host.
    Directory,
    /// A plain tar archive.
    Tar,
    /// An archive compressed with gzip.
    TarGz,
}

impl Source {
    /// Opens a directory, or a file that is a tar archive, compressed with gzip or not.
    ///
    /// # Errors
    /// When there is no such thing, or it is neither.
    pub fn open(path: impl Into<HostPath>, limits: Limits) -> Result<Self, ArchiveError> {
        use rustix::fs::{Mode, OFlags};
        let path = path.into();
        let name = path.shown().as_os_str().as_encoded_bytes();
        let fail = |source: io::Error| ArchiveError::file(name, "opened")(source);
        // Not blocking, for a fifo would have us wait.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path.path(), flags, Mode::empty()).map_err(|error| fail(error.into()))?;
        let mut file = File::from(file);
        path.confirm(&file).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        let not = |looks_like| ArchiveError::NotAnArchive { path: path.shown().to_path_buf(), looks_like };
        let opened = if meta.is_dir() {
            Opened::Directory(file.into())
        } else if meta.is_file() {
            let mut begin = Vec::new();
            (&mut file).take(512).read_to_end(&mut begin).map_err(fail)?;
            file.seek(SeekFrom::Start(0)).map_err(fail)?;
            let block: Option<&[u8; 512]> = begin.as_slice().try_into().ok();
            match block {
                // First, for a name may begin as compressed archives do, and no such archive has a right sum by chance.
                Some(block) if sum_is_right(block) || block == &[0; 512] => Opened::Tar(file),
                _ if begin.starts_with(&[0x1f, 0x8b]) => Opened::Gzip(file),
                _ => return Err(not(looks_like(&begin))),
            }
        } else {
            return Err(not(Some("a device, a socket or a fifo")));
        };
        Ok(Self { path, limits, opened })
    }

    /// Format of the source, known by its content.
    pub fn form(&self) -> Form {
        match self.opened {
            Opened::Directory(_) => Form::Directory,
            Opened::Tar(_) => Form::Tar,
            Opened::Gzip(_) => Form::TarGz,
        }
    }

    /// Counts the tree without reading its files, to have something to measure progress by: a directory in a moment; an
    /// archive has to be read for it, so it is not counted.
    ///
    /// # Errors
    /// As [`Source::write_to`].
    pub fn count(&self) -> Result<Option<Totals>, ArchiveError> {
        let Opened::Directory(dir) = &self.opened else { return Ok(None) };
        let mut go_on = |_: Totals| std::ops::ControlFlow::Continue(());
        let mut meter = Meter { totals: Totals::default(), reported: 0, progress: &mut go_on };
        let mut check = Check::new(self.limits);
        walk::directory(dir, &mut check, &mut meter, None)?;
        Ok(Some(meter.totals))
    }

    /// Writes it as one plain tar stream: paths without `.` and `..`, owned by root, no set-user-id, in the order of
    /// the archive or, for a directory, by name. The tree itself (`./`) has no entry.
    ///
    /// # Errors
    /// Whatever is refused, with the entry's name; the stream is then not complete, its end is missing.
    pub fn write_to<'p>(
        mut self,
        to: &mut dyn Write,
        progress: &'p mut Progress<'p>,
    ) -> Result<Written, ArchiveError> {
        let mut meter = Meter { totals: Totals::default(), reported: 0, progress };
        let mut check = Check::new(self.limits);
        let mut writer = Writer::new(to);
        match &mut self.opened {
            Opened::Directory(dir) => walk::directory(dir, &mut check, &mut meter, Some(&mut writer))?,
            Opened::Tar(file) => copy(file, &mut check, &mut meter, &mut writer)?,
            Opened::Gzip(file) => {
                let counted = Counted { file, count: 0 };
                let decoder = MultiGzDecoder::new(BufReader::with_capacity(CHUNK, counted));
                let mut bounded = Bounded { decoder, count: 0, limits: self.limits };
                copy(&mut bounded, &mut check, &mut meter, &mut writer)
                    .map_err(|error| not_tar(error, self.path.shown()))?;
            }
        }
        check.finish()?;
        writer.finish()?;
        meter.tell()?;
        Ok(Written { totals: meter.totals, skipped_links: check.skipped.0 })
    }
}

/// Turns damage at the first header into the error for a compressed file that is no archive.
fn not_tar(error: ArchiveError, path: &Path) -> ArchiveError {
    match error {
        ArchiveError::Damaged { entries: 0, why } if why.contains("sum") => ArchiveError::NotAnArchive {
            path: path.to_path_buf(),
            looks_like: Some("a single file compressed with gzip"),
        },
        other => other,
    }
}

fn looks_like(begin: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 6] = [
        (b"PK", "a zip archive"),
        (b"BZh", "compressed with bzip2"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "compressed with xz"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd"),
        (b"7z\xbc\xaf", "a 7z archive"),
        (b"", "an empty file"),
    ];
    let fits = |magic: &[u8]| if magic.is_empty() { begin.is_empty() } else { begin.starts_with(magic) };
    known.into_iter().find(|(magic, _)| fits(magic)).map(|(_, what)| what)
}

fn copy(
    from: &mut dyn Read,
    check: &mut Check,
    meter: &mut Meter<'_>,
    writer: &mut Writer<'_>,
) -> Result<(), ArchiveError> {
    let mut reader = Reader::new(from);
    let mut buffer = vec![0; CHUNK];
    while let Some(entry) = reader.next()? {
        let Some(entry) = check.admit(entry)? else {
            meter.link()?;
            continue;
        };
        if entry.path.is_empty() {
            continue;
        }
        writer.entry(&entry)?;
        meter.entry()?;
        if let Content::File(size) = entry.content {
            loop {
                let bytes = reader.content(&mut buffer)?;
                if bytes.is_empty() {
                    break;
                }
                writer.write(bytes)?;
                meter.bytes(bytes.len())?;
            }
            writer.pad(size)?;
        }
    }
    Ok(())
}

/// A file, and how much of it was read.
struct Counted<'f> {
    file: &'f mut File,
    count: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

/// Reader of a compressed archive that fails once the ratio is not believable.
struct Bounded<'f> {
    decoder: MultiGzDecoder<BufReader<Counted<'f>>>,
    count: u64,
    limits: Limits,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer)?;
        self.count += count as u64;
        let packed = self.decoder.get_ref().get_ref().count;
        if self.count > self.limits.ratio_free && self.count > packed.saturating_mul(self.limits.ratio) {
            return Err(io::Error::other(Grown(self.limits.ratio)));
        }
        Ok(count)
    }
}
