//! Limits of a VM's request, checked before anything is created.

use std::time::Duration;

use crate::failure::FailureKind;
use crate::hint::Hint;

/// Fewest and most virtual CPUs.
pub const VCPUS: std::ops::RangeInclusive<u32> = 1..=8;
/// Least and most memory, MiB.
pub const MEMORY_MIB: std::ops::RangeInclusive<u32> = 256..=32_768;
/// Shortest and longest time to live, seconds; 0 means none.
pub const TTL_SECONDS: std::ops::RangeInclusive<u64> = 60..=86_400;

/// Shape and wishes for a new VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmRequest {
    /// An environment of the catalog, such as `debian:12`.
    pub environment: String,
    /// Virtual CPUs: [`VCPUS`].
    pub vcpu_count: u32,
    /// Guest memory in MiB: [`MEMORY_MIB`].
    pub mem_mib: u32,
    /// Idle time after which it may be reaped, seconds: [`TTL_SECONDS`], or 0 for never. A running command is
    /// activity.
    pub ttl_seconds: u64,
    /// Outbound network access.
    pub network: bool,
    /// Whether the command may run on the host, with no isolation, when no guest can run.
    pub allow_host_compat: bool,
}

impl VmRequest {
    /// The defaults of the contract, for this environment: 1 vCPU, 1024 MiB, 600 s, no network, never on the host.
    pub fn new(environment: impl Into<String>) -> Self {
        Self {
            environment: environment.into(),
            vcpu_count: 1,
            mem_mib: 1024,
            ttl_seconds: 600,
            network: false,
            allow_host_compat: false,
        }
    }
}

/// A request that cannot be met.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LimitError {
    /// Too few or too many CPUs.
    #[error("vcpu_count is {0}: it must be {min} to {max}", min = VCPUS.start(), max = VCPUS.end())]
    Vcpus(u32),
    /// Too little or too much memory.
    #[error("mem_mib is {0}: it must be {min} to {max}", min = MEMORY_MIB.start(), max = MEMORY_MIB.end())]
    Memory(u32),
    /// More memory than the host can give now.
    #[error("mem_mib is {wanted}, and this host has {available} MiB free")]
    HostMemory {
        /// Requested memory, MiB.
        wanted: u32,
        /// Available memory, MiB.
        available: u64,
    },
    /// A time to live out of range.
    #[error("ttl_seconds is {0}: it must be 0 (none) or {min} to {max}", min = TTL_SECONDS.start(), max = TTL_SECONDS.end())]
    Ttl(u64),
    /// A timeout out of range.
    #[error("timeout_seconds is {0}: it must be 1 to 86400")]
    Timeout(u64),
    /// The network does not exist yet.
    #[error("outbound network access is not part of this version of pyro")]
    Network,
}

impl LimitError {
    /// Action that may help, where there is one.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::HostMemory { available, .. } if *available >= u64::from(*MEMORY_MIB.start()) => {
                Some(Hint::LessMemory { available_mib: *available })
            }
            Self::HostMemory { .. } => Some(Hint::FreeHostMemory),
            Self::Network => Some(Hint::WithoutNetwork),
            Self::Vcpus(_) | Self::Memory(_) | Self::Ttl(_) | Self::Timeout(_) => None,
        }
    }

    /// Kind of the failure, for programs.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Network => FailureKind::Unsupported,
            Self::Vcpus(_) | Self::Memory(_) | Self::HostMemory { .. } | Self::Ttl(_) | Self::Timeout(_) => {
                FailureKind::InvalidArgument
            }
        }
    }
}

/// Checks everything that can be checked without creating anything, on a host that has so many MiB available (`None`
/// where it does not say).
pub fn check(request: &VmRequest, available: Option<u64>) -> Result<(), LimitError> {
    if !VCPUS.contains(&request.vcpu_count) {
        return Err(LimitError::Vcpus(request.vcpu_count));
    }
    if !MEMORY_MIB.contains(&request.mem_mib) {
        return Err(LimitError::Memory(request.mem_mib));
    }
    if request.ttl_seconds != 0 && !TTL_SECONDS.contains(&request.ttl_seconds) {
        return Err(LimitError::Ttl(request.ttl_seconds));
    }
    if request.network {
        return Err(LimitError::Network);
    }
    if let Some(available) = available
        && u64::from(request.mem_mib) > available
    {
        return Err(LimitError::HostMemory { wanted: request.mem_mib, available });
    }
    Ok(())
}

/// A command's timeout from whole seconds.
pub fn timeout(seconds: u64) -> Result<Duration, LimitError> {
    if (1..=86_400).contains(&seconds) {
        Ok(Duration::from_secs(seconds))
    } else {
        Err(LimitError::Timeout(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_holds() {
        let ok = VmRequest { mem_mib: 256, ..VmRequest::new("debian:12") };
        assert_eq!(check(&ok, None), Ok(()));
        assert_eq!(check(&VmRequest { vcpu_count: 0, ..ok.clone() }, None), Err(LimitError::Vcpus(0)));
        assert_eq!(check(&VmRequest { vcpu_count: 9, ..ok.clone() }, None), Err(LimitError::Vcpus(9)));
        assert_eq!(check(&VmRequest { mem_mib: 255, ..ok.clone() }, None), Err(LimitError::Memory(255)));
        assert_eq!(
            check(&VmRequest { mem_mib: 32_769, ..ok.clone() }, None),
            Err(LimitError::Memory(32_769))
        );
        assert_eq!(check(&VmRequest { ttl_seconds: 59, ..ok.clone() }, None), Err(LimitError::Ttl(59)));
        assert_eq!(check(&VmRequest { ttl_seconds: 0, ..ok.clone() }, None), Ok(()));
        assert_eq!(check(&VmRequest { network: true, ..ok }, None), Err(LimitError::Network));
        assert!(timeout(0).is_err() && timeout(86_401).is_err() && timeout(1).is_ok());
    }

    #[test]
    fn more_memory_than_the_host_has_is_refused() {
        let request = VmRequest { mem_mib: 2048, ..VmRequest::new("debian:12") };
        assert_eq!(check(&request, Some(2048)), Ok(()));
        assert_eq!(check(&request, None), Ok(()));
        let error = check(&request, Some(1500)).unwrap_err();
        assert_eq!(error.to_string(), "mem_mib is 2048, and this host has 1500 MiB free");
        assert_eq!(error.hint(), Some(Hint::LessMemory { available_mib: 1500 }));
    }

    #[test]
    fn messages_say_the_range() {
        assert_eq!(LimitError::Vcpus(9).to_string(), "vcpu_count is 9: it must be 1 to 8");
        assert_eq!(LimitError::Memory(1).to_string(), "mem_mib is 1: it must be 256 to 32768");
        assert_eq!(LimitError::Ttl(1).to_string(), "ttl_seconds is 1: it must be 0 (none) or 60 to 86400");
    }
}
