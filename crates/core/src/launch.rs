//! From parts to a guest that answers: start the VMM, shake hands, give the guest its identity, check its root.
//!
//! The guest and its VMM are watched together: a VMM that dies while the handshake waits is an error at once, with
//! the end of the guest's console in it, and a guest that hangs is one when the deadline passes.

use std::time::{Duration, Instant};

use pyro_proto::message::{AgentInfo, Failure};
use pyro_vmm::{Accelerator, Death, Machine, Qemu, Spec, VmmError};

use crate::guest::{Guest, GuestError};
use crate::identity::{self, NoRandomness};

/// A guest that answers, in a VMM that runs. Dropping it kills both.
pub struct Booted {
    /// The VMM process.
    pub machine: Machine,
    /// The session with the agent.
    pub guest: Guest,
    /// What the agent says of itself; informative only.
    pub agent: AgentInfo,
    /// From the order to start to the guest's identity, whole.
    pub took: Duration,
}

/// Why no guest came up.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The VMM did not start.
    #[error("the virtual machine monitor did not start")]
    Launch(#[source] VmmError),
    /// The VMM ended before the guest answered.
    #[error("the virtual machine ended before its guest answered: {}", died(.0))]
    Died(Death),
    /// The guest did not answer in time.
    #[error("the guest did not answer within {} s{}", .after.as_secs(), tail(.console))]
    Deadline {
        /// The deadline.
        after: Duration,
        /// The end of its console.
        console: String,
    },
    /// The guest answered, and then not well.
    #[error("the guest came up and could not be talked to{}", tail(.console))]
    Session {
        /// What went wrong.
        #[source]
        source: GuestError,
        /// The end of its console.
        console: String,
    },
    /// The guest runs but could not set up its root file system.
    #[error("the guest could not set up its root file system")]
    Root(#[source] Failure),
    /// No fresh randomness.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

fn died(death: &Death) -> String {
    format!("{death}{}", tail(&death.console_tail))
}

fn tail(console: &str) -> String {
    if console.trim().is_empty() {
        "; its console shows nothing".to_owned()
    } else {
        format!("; its console ends:\n{}", console.trim_end())
    }
}

/// How long a guest may take to answer. Under software emulation, with every core busy with other work, boots of
/// some seconds were seen; hardware takes a fraction of one.
pub fn boot_deadline(accelerator: Accelerator) -> Duration {
    match accelerator {
        Accelerator::Kvm => Duration::from_secs(20),
        Accelerator::Tcg => Duration::from_secs(60),
    }
}

/// Whether a guest must have its root file system to count as up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// It must.
    Needed,
    /// It has no disks; only whether it boots is asked.
    Absent,
}

/// Starts a guest and waits until it has its identity, for at most `deadline`.
pub async fn boot(
    qemu: &Qemu,
    spec: Spec,
    hostname: String,
    root: Root,
    deadline: Duration,
) -> Result<Booted, BootError> {
    let begin = Instant::now();
    let mut machine = qemu.launch(spec).await.map_err(BootError::Launch)?;
    let watch = machine.watch();
    let left = deadline.saturating_sub(begin.elapsed());
    let stream = match machine.connect(left).await {
        Ok(stream) => stream,
        Err(VmmError::Deadline { .. }) => {
            return Err(BootError::Deadline { after: deadline, console: machine.console_tail() });
        }
        Err(VmmError::Died { death, .. }) => return Err(BootError::Died(*death)),
        Err(error) => return Err(BootError::Launch(error)),
    };
    let left = deadline.saturating_sub(begin.elapsed());
    let talk = async {
        let guest = Guest::connect(stream, identity::random()?, left).await.map_err(Trouble::Guest)?;
        let agent = guest.identify(identity::fresh(hostname)?).await.map_err(Trouble::Guest)?;
        Ok::<_, Trouble>((guest, agent))
    };
    let talked = tokio::select! {
        biased;
        talked = tokio::time::timeout(left, talk) => talked,
        death = watch.ended() => return Err(BootError::Died(death)),
    };
    let (guest, agent) = match talked {
        Ok(Ok(pair)) => pair,
        Ok(Err(Trouble::Randomness(error))) => return Err(error.into()),
        Ok(Err(Trouble::Guest(GuestError::Silent { .. }))) | Err(_) => {
            return Err(BootError::Deadline { after: deadline, console: machine.console_tail() });
        }
        Ok(Err(Trouble::Guest(source))) => {
            // A stream that breaks is mostly a VMM that just died, and that says more.
            return Err(match tokio::time::timeout(GRACE, watch.ended()).await {
                Ok(death) => BootError::Died(death),
                Err(_) => BootError::Session { source, console: machine.console_tail() },
            });
        }
    };
    if root == Root::Needed
        && let Some(failure) = agent.root_problem
    {
        return Err(BootError::Root(failure));
    }
    Ok(Booted { machine, guest, agent, took: begin.elapsed() })
}

/// How long to wait for the VMM's death to be known once its stream broke.
pub const GRACE: Duration = Duration::from_millis(500);

enum Trouble {
    Guest(GuestError),
    Randomness(NoRandomness),
}

impl From<NoRandomness> for Trouble {
    fn from(error: NoRandomness) -> Self {
        Self::Randomness(error)
    }
}
