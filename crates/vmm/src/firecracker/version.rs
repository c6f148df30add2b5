//! Firecracker versions: the requests that each understands, and its known defects.
//!
//! The binary is asked once for its version. Firecracker refuses requests with unknown fields, so each field that is
//! younger than the oldest supported version is a [`FirecrackerFeature`]. Known defects are data with the versions
//! they are in; code that would run into one calls [`FirecrackerVersion::refuse`] first, and the refusal names the
//! defect.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::VmmError;

/// Longest run of `--version`.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);

/// Oldest supported version: older ones lack requests that this adapter relies on, and were never tried.
const OLDEST_SUPPORTED: (u32, u32, u32) = (1, 12, 0);

/// Version of a Firecracker binary, as `--version` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FirecrackerVersion {
    /// Major version, the first number.
    pub major: u32,
    /// Minor version, the second number.
    pub minor: u32,
    /// Patch level, the third number.
    pub patch: u32,
}

/// Parses the form that `Display` writes, as `1.12.1`.
impl std::str::FromStr for FirecrackerVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<FirecrackerVersion, ()> {
        FirecrackerVersion::of_text(text).ok_or(())
    }
}

/// Known defect of some versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FirecrackerDefect {
    /// The version is older than the oldest supported one.
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

/// Request or field that not every supported version understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirecrackerFeature {
    /// `clock_realtime` on load: the guest's clock goes on at the host's time.
    ClockRealtime,
    /// `track_dirty_pages` on load; before it was called `enable_diff_snapshots`.
    TrackDirtyPages,
    /// `vsock_override` on load.
    VsockOverride,
}

/// Step of a machine's life that some versions break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VersionedStep {
    Launch,
    Restore,
    /// Resume of a machine that was not saved since its pause.
    BareResume,
}

impl FirecrackerVersion {
    /// Runs `binary --version`.
    ///
    /// # Errors
    /// When it is missing, cannot run, does not answer within 10 s, or is no Firecracker.
    pub async fn of(binary: &Path) -> Result<FirecrackerVersion, VmmError> {
        let printed = ask(binary, "--version").await?;
        FirecrackerVersion::parse(&printed)
            .ok_or_else(|| VmmError::Version { binary: binary.to_owned(), output: start_of(&printed) })
    }

    /// Asks the binary for its snapshot format, as `6.0.0`. Firecracker converts no formats, so saved states must be
    /// stored under their format.
    ///
    /// # Errors
    /// Fails as [`FirecrackerVersion::of`] does.
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
        // Development builds print `1.13.0-dev`.
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

    /// Lists all known defects of this version, whether or not a machine would run into them.
    pub fn defects(self) -> Vec<FirecrackerDefect> {
        let number = self.number();
        let mut found = Vec::new();
        if number < OLDEST_SUPPORTED {
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
            // The field came with 1.16 and was ported back to two older lines.
            FirecrackerFeature::ClockRealtime => {
                number >= (1, 15, 1) || ((1, 14, 4)..(1, 15, 0)).contains(&number)
            }
            FirecrackerFeature::TrackDirtyPages => number >= (1, 13, 0),
            FirecrackerFeature::VsockOverride => number >= (1, 16, 0),
        }
    }

    /// Fails with [`VmmError::KnownBad`] when this version is known to break at `step`.
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

    /// Refuses differential snapshots of a guest of `mem_mib` MiB where this version is known to corrupt them.
    ///
    /// # Errors
    /// [`VmmError::KnownBad`] above 3072 MiB with such a version.
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

/// Runs the binary with one option and gives its standard output.
pub(super) async fn ask(binary: &Path, option: &'static str) -> Result<String, VmmError> {
    let mut command = tokio::process::Command::new(binary);
    command.arg(option).env_clear().stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_DEADLINE, command.output())
        .await
        .map_err(|_| VmmError::Deadline { command: option, after: VERSION_DEADLINE })?
        .map_err(|source| VmmError::of_run(binary, super::OBTAINED_FROM, source))?;
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
