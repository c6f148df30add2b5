//! What a Firecracker's version says about it: which requests it understands, and what it is known to do wrong.
//!
//! The version is asked once, of the binary. Requests with an unknown field are refused by Firecracker, so each field
//! that is younger than the oldest supported version is asked for here first. Known faults are data with the versions
//! they are in; whoever is about to do what breaks asks [`FirecrackerVersion::refuse`], and the refusal names the fault.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::VmmError;

/// How long `--version` may take.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);

/// Older ones lack requests that everything here relies on, and were never tried.
const OLDEST: (u32, u32, u32) = (1, 12, 0);

/// What `--version` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FirecrackerVersion {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Patch level.
    pub patch: u32,
}

/// Reads what `Display` writes, as `1.12.1`.
impl std::str::FromStr for FirecrackerVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<FirecrackerVersion, ()> {
        FirecrackerVersion::of_text(text).ok_or(())
    }
}

/// Something that some versions do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FirecrackerDefect {
    /// Older than what is supported.
    TooOld,
    /// After a pause and a resume with no snapshot between, host connections to the guest hang.
    BarePauseResume,
    /// The guest may accept no connections after a restore.
    DeadAfterRestore,
    /// A differential snapshot of more than 3 GiB holds wrong memory.
    DiffAbove3Gib,
}

impl fmt::Display for FirecrackerDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FirecrackerDefect::TooOld => "versions before 1.12.0 are not supported",
            FirecrackerDefect::BarePauseResume => {
                "its connections to the guest hang after a pause and a resume without a snapshot"
            }
            FirecrackerDefect::DeadAfterRestore => "its guests may accept no connection after a restore",
            FirecrackerDefect::DiffAbove3Gib => "its differential snapshots corrupt memory above 3 GiB",
        })
    }
}

/// A field or request that not every supported version understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirecrackerFeature {
    /// `clock_realtime` on load: the guest's clock goes on at the host's time.
    ClockRealtime,
    /// `track_dirty_pages` on load; before it was called `enable_diff_snapshots`.
    TrackDirtyPages,
    /// `vsock_override` on load.
    VsockOverride,
}

/// What is about to be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VersionedStep {
    Launch,
    Restore,
    /// A resume of what was paused and not saved since.
    BareResume,
}

impl FirecrackerVersion {
    /// Asks the binary.
    ///
    /// # Errors
    /// When it is missing, cannot run, does not answer within 10 s, or is no Firecracker.
    pub async fn of(binary: &Path) -> Result<FirecrackerVersion, VmmError> {
        let printed = ask(binary, "--version").await?;
        FirecrackerVersion::parse(&printed)
            .ok_or_else(|| VmmError::Version { binary: binary.to_owned(), output: start_of(&printed) })
    }

    /// The format of the snapshots that the binary writes and reads, as `6.0.0`. Formats are not converted, so this
    /// belongs into the key of whatever is kept across versions.
    ///
    /// # Errors
    /// As [`FirecrackerVersion::of`].
    pub async fn snapshot_format(binary: &Path) -> Result<String, VmmError> {
        let printed = ask(binary, "--snapshot-version").await?;
        let text = printed.lines().next().and_then(|line| line.trim().strip_prefix('v'));
        text.filter(|text| numbers(text).is_some())
            .map(str::to_owned)
            .ok_or_else(|| VmmError::Version { binary: binary.to_owned(), output: start_of(&printed) })
    }

    /// Reads `Firecracker v1.12.1` or, from a jailer, `Jailer v1.12.1`.
    pub(super) fn parse(printed: &str) -> Option<FirecrackerVersion> {
        let line = printed.lines().next()?.trim();
        let text = line.strip_prefix("Firecracker v").or_else(|| line.strip_prefix("Jailer v"))?;
        // A development build says `1.13.0-dev`.
        let (major, minor, patch) = numbers(text.split('-').next()?)?;
        Some(FirecrackerVersion { major, minor, patch })
    }

    fn of_text(text: &str) -> Option<FirecrackerVersion> {
        let (major, minor, patch) = numbers(text)?;
        Some(FirecrackerVersion { major, minor, patch })
    }

    fn number(self) -> (u32, u32, u32) {
        (self.major, self.minor, self.patch)
    }

    /// All that is known to be wrong with this version, whether or not it is ever met.
    pub fn defects(self) -> Vec<FirecrackerDefect> {
        let number = self.number();
        let mut found = Vec::new();
        if number < OLDEST {
            found.push(FirecrackerDefect::TooOld);
        }
        if ((1, 16, 0)..=(1, 16, 1)).contains(&number) {
            found.push(FirecrackerDefect::BarePauseResume);
        }
        if number == (1, 16, 0) {
            found.push(FirecrackerDefect::DeadAfterRestore);
        }
        if number < (1, 14, 2) {
            found.push(FirecrackerDefect::DiffAbove3Gib);
        }
        found
    }

    /// Whether this version understands `feature`.
    pub fn has(self, feature: FirecrackerFeature) -> bool {
        let number = self.number();
        match feature {
            // It came with 1.16 and went back into two older lines.
            FirecrackerFeature::ClockRealtime => {
                number >= (1, 15, 1) || ((1, 14, 4)..(1, 15, 0)).contains(&number)
            }
            FirecrackerFeature::TrackDirtyPages => number >= (1, 13, 0),
            FirecrackerFeature::VsockOverride => number >= (1, 16, 0),
        }
    }

    /// Refuses what this version is known to break.
    pub(super) fn refuse(self, step: VersionedStep) -> Result<(), VmmError> {
        let breaks = |defect: &FirecrackerDefect| match step {
            VersionedStep::Launch => *defect == FirecrackerDefect::TooOld,
            VersionedStep::Restore => *defect == FirecrackerDefect::DeadAfterRestore,
            VersionedStep::BareResume => *defect == FirecrackerDefect::BarePauseResume,
        };
        match self.defects().into_iter().find(breaks) {
            Some(defect) => Err(VmmError::KnownBad { version: self.to_string(), defect }),
            None => Ok(()),
        }
    }

    /// Refuses differential snapshots where they are known to be wrong.
    ///
    /// # Errors
    /// [`VmmError::KnownBad`].
    pub fn refuse_diff(self, mem_mib: u32) -> Result<(), VmmError> {
        if mem_mib > 3072 && self.defects().contains(&FirecrackerDefect::DiffAbove3Gib) {
            return Err(VmmError::KnownBad {
                version: self.to_string(),
                defect: FirecrackerDefect::DiffAbove3Gib,
            });
        }
        Ok(())
    }
}

impl fmt::Display for FirecrackerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

fn numbers(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(str::parse);
    let all = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    parts.next().is_none().then_some(all)
}

fn start_of(printed: &str) -> String {
    printed.chars().take(200).collect()
}

/// The standard output of the binary run with one option.
pub(super) async fn ask(binary: &Path, option: &'static str) -> Result<String, VmmError> {
    let mut command = tokio::process::Command::new(binary);
    command.arg(option).env_clear().stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_DEADLINE, command.output())
        .await
        .map_err(|_| VmmError::Deadline { command: option, after: VERSION_DEADLINE })?
        .map_err(|source| VmmError::of_run(binary, super::SOURCE, source))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> FirecrackerVersion {
        FirecrackerVersion::parse(&format!("Firecracker v{text}")).unwrap()
    }

    fn refused(text: &str, step: VersionedStep) -> Option<FirecrackerDefect> {
        match version(text).refuse(step) {
            Ok(()) => None,
            Err(VmmError::KnownBad { version, defect }) => {
                assert_eq!(version, text);
                Some(defect)
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn versions_are_read() {
        let read = |text| FirecrackerVersion::parse(text).map(|version| version.to_string());
        assert_eq!(read("Firecracker v1.12.1\n\n2026-01-01 exiting").as_deref(), Some("1.12.1"));
        assert_eq!(read("Jailer v1.15.1\n").as_deref(), Some("1.15.1"));
        assert_eq!(read("Firecracker v1.13.0-dev").as_deref(), Some("1.13.0"));
        for text in
            ["", "Firecracker", "Firecracker v1.12", "Firecracker v1.12.1.4", "QEMU emulator version 7.2.22"]
        {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_bare_pause_and_resume_is_refused_where_it_hangs() {
        for (text, expected) in [
            ("1.12.1", None),
            ("1.15.1", None),
            ("1.16.0", Some(FirecrackerDefect::BarePauseResume)),
            ("1.16.1", Some(FirecrackerDefect::BarePauseResume)),
            ("1.16.2", None),
            ("1.17.0", None),
        ] {
            assert_eq!(refused(text, VersionedStep::BareResume), expected, "{text}");
            assert_eq!(refused(text, VersionedStep::Launch), None, "{text}");
        }
    }

    #[test]
    fn a_restore_is_refused_where_its_guest_may_be_deaf() {
        for (text, expected) in [
            ("1.12.1", None),
            ("1.15.1", None),
            ("1.16.0", Some(FirecrackerDefect::DeadAfterRestore)),
            ("1.16.1", None),
        ] {
            assert_eq!(refused(text, VersionedStep::Restore), expected, "{text}");
        }
    }

    #[test]
    fn a_differential_snapshot_is_refused_where_it_corrupts() {
        for (text, mem_mib, bad) in [
            ("1.12.1", 3072, false),
            ("1.12.1", 3073, true),
            ("1.14.1", 4096, true),
            ("1.14.2", 4096, false),
            ("1.15.1", 65_536, false),
        ] {
            assert_eq!(version(text).refuse_diff(mem_mib).is_err(), bad, "{text} with {mem_mib}");
        }
    }

    #[test]
    fn what_is_too_old_is_refused_by_name() {
        assert_eq!(refused("1.11.0", VersionedStep::Launch), Some(FirecrackerDefect::TooOld));
        let error = version("1.11.0").refuse(VersionedStep::Launch).unwrap_err().to_string();
        assert_eq!(
            error,
            "version 1.11.0 of the VMM is not used here: versions before 1.12.0 are not supported"
        );
        assert_eq!(version("1.15.1").defects(), []);
    }

    #[test]
    fn newer_fields_wait_for_their_version() {
        for (text, clock, dirty, vsock) in [
            ("1.12.1", false, false, false),
            ("1.13.0", false, true, false),
            ("1.14.3", false, true, false),
            ("1.14.4", true, true, false),
            ("1.15.0", false, true, false),
            ("1.15.1", true, true, false),
            ("1.16.0", true, true, true),
        ] {
            let has = |feature| version(text).has(feature);
            let all = (
                has(FirecrackerFeature::ClockRealtime),
                has(FirecrackerFeature::TrackDirtyPages),
                has(FirecrackerFeature::VsockOverride),
            );
            assert_eq!(all, (clock, dirty, vsock), "{text}");
        }
    }
}
