//! From parts to a guest that answers: start the VMM, cold or from a saved state, shake hands, give the guest its
//! identity, see to its root.
//!
//! The guest and its VMM are watched together: a VMM that dies while the handshake waits is an error at once, with
//! the end of the guest's console in it, and a guest that hangs is one when the deadline passes.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pyro_proto::message::{AgentInfo, Failure};
use pyro_vmm::{Accelerator, Backend, Death, Machine, MachineSpec, MachineStart, Vmm, VmmError};

use crate::guest::{Guest, GuestError};
use crate::identity::{self, NoRandomness};
use crate::timeline::{Step, Timeline};

/// A guest that answers, in a VMM that runs. Dropping it kills both.
pub struct Booted {
    /// The VMM process.
    pub machine: Machine,
    /// The session with the agent.
    pub guest: Guest,
    /// The agent's description of itself; informative only.
    pub agent: AgentInfo,
    /// Second descriptor of the guest's port, for another session on it; none where sessions have connections of their own,
    /// or there is but one session.
    pub port: Option<UnixStream>,
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
        /// Time that the guest had.
        after: Duration,
        /// The end of its console.
        console: String,
    },
    /// The guest answered, and then not well.
    #[error("the guest came up and could not be talked to{}", tail(.console))]
    Session {
        /// Failure of the session.
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

/// The word on a guest's kernel command line that says where its agent listens, if that is not a port.
pub fn kernel_arg(backend: Backend) -> Option<&'static str> {
    (!backend.has_port()).then_some("pyro.vsock")
}

/// State of a guest's root file system when the guest is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootState {
    /// The guest has it when it answers.
    Ready,
    /// The guest had it when it was saved, and was used since it booted: whoever asked knows its boot id.
    Kept,
    /// The guest is told to assemble it, once it has its identity.
    Assemble,
    /// The guest waits to be told so, after it was saved and restored.
    Later,
    /// The guest has no disks; only whether it boots is asked.
    Absent,
}

/// How a guest is to come up.
#[derive(Clone, Debug)]
pub struct BootRequest {
    /// Host name of the guest.
    pub hostname: String,
    /// Whether it ends with the session.
    pub oneshot: bool,
    /// State of its root file system.
    pub root: RootState,
    /// How long it may take to answer.
    pub deadline: Duration,
}

/// Starts a guest, cold or from a saved state, and waits until it has its identity.
pub async fn boot(
    vmm: &Vmm,
    spec: MachineSpec,
    wish: &BootRequest,
    timeline: &Timeline,
) -> Result<Booted, BootError> {
    let begin = Instant::now();
    let restores = matches!(spec.start, MachineStart::Restore { .. });
    let (machine, port) = launch(vmm, spec, timeline).await?;
    meet(machine, port, restores, wish, begin, timeline).await
}

/// A machine that was started, and its port where it has one.
async fn launch(
    vmm: &Vmm,
    spec: MachineSpec,
    timeline: &Timeline,
) -> Result<(Machine, Option<UnixStream>), BootError> {
    let restores = matches!(spec.start, MachineStart::Restore { .. });
    let mut machine = vmm.launch(spec).await.map_err(BootError::Launch)?;
    timeline.mark_at(Step::VmmAnswered, machine.launch_times().answered);
    if restores {
        timeline.mark_at(Step::StateLoaded, machine.launch_times().ready);
    }
    let port = if machine.backend().has_port() {
        Some(machine.connect(Duration::ZERO).await.map_err(BootError::Launch)?)
    } else {
        None
    };
    Ok((machine, port))
}

/// Resumes a guest that was paused, if it was, and makes its acquaintance, over its port or a new connection: handshake,
/// identity, root.
///
/// The guest and its VMM are watched together.
pub async fn meet(
    mut machine: Machine,
    port: Option<UnixStream>,
    paused: bool,
    wish: &BootRequest,
    begin: Instant,
    timeline: &Timeline,
) -> Result<Booted, BootError> {
    let watch = machine.watch();
    let left = wish.deadline.saturating_sub(begin.elapsed());
    // The end of a guest that is for one session is the end of its port.
    let kept = port.as_ref().filter(|_| !wish.oneshot).map(UnixStream::try_clone).transpose();
    let kept =
        kept.map_err(|source| BootError::Launch(VmmError::Host { doing: "keep the port open", source }))?;
    let talk = async {
        let nonce = identity::random()?;
        let resume = async |machine: &mut Machine| {
            if paused { machine.resume().await.map_err(MeetError::Vmm) } else { Ok(()) }
        };
        let shake = async |stream| {
            let met = match wish.root {
                RootState::Kept => Guest::reconnect(stream, nonce, left).await,
                _ => Guest::connect(stream, nonce, left).await,
            };
            met.map_err(MeetError::Guest)
        };
        let guest = match port {
            // The greeting is on its way before the guest runs: it finds it when it does.
            Some(port) => tokio::try_join!(resume(&mut machine), shake(port))?.1,
            None => {
                resume(&mut machine).await?;
                shake(machine.connect(left).await.map_err(MeetError::Vmm)?).await?
            }
        };
        timeline.mark(Step::Connected);
        let agent = introduce(&guest, wish).await?;
        timeline.mark(Step::Identified);
        if wish.root == RootState::Assemble {
            guest.assemble().await.map_err(MeetError::Root)?;
            timeline.mark(Step::Assembled);
        }
        Ok::<_, MeetError>((guest, agent))
    };
    let talked = tokio::select! {
        biased;
        talked = tokio::time::timeout(left, talk) => talked,
        death = watch.ended() => return Err(BootError::Died(death)),
    };
    let silent =
        |machine: &Machine| BootError::Deadline { after: wish.deadline, console: machine.console_tail() };
    let (guest, agent) = match talked {
        Ok(Ok(pair)) => pair,
        Err(_) => return Err(silent(&machine)),
        Ok(Err(trouble)) => match trouble {
            MeetError::Randomness(error) => return Err(error.into()),
            MeetError::Vmm(VmmError::Deadline { .. }) => return Err(silent(&machine)),
            MeetError::Vmm(VmmError::Died { death, .. }) => return Err(BootError::Died(*death)),
            MeetError::Vmm(error) => return Err(BootError::Launch(error)),
            MeetError::Guest(GuestError::Silent { .. }) => return Err(silent(&machine)),
            MeetError::Root(GuestError::Failed(failure)) => return Err(BootError::Root(failure)),
            MeetError::Guest(source) | MeetError::Root(source) => {
                // A stream that breaks is mostly a VMM that just died, and that says more.
                return Err(match tokio::time::timeout(GRACE, watch.ended()).await {
                    Ok(death) => BootError::Died(death),
                    Err(_) => BootError::Session { source, console: machine.console_tail() },
                });
            }
        },
    };
    if wish.root != RootState::Absent
        && let Some(failure) = agent.root_problem
    {
        return Err(BootError::Root(failure));
    }
    Ok(Booted { machine, guest, agent, port: kept, took: begin.elapsed() })
}

/// A clock that was set by a message which, with its answer, took longer than this is looked at: it may be wrong by that
/// much. What is known to less than this is left.
const CLOCK_ERROR: Duration = Duration::from_millis(40);
/// How often it is looked at before it is set as well as is known, as on a host so busy that no message is quick.
const CLOCK_LOOKS: usize = 20;

/// Gives the guest its identity.
async fn introduce(guest: &Guest, wish: &BootRequest) -> Result<AgentInfo, MeetError> {
    // Before the time in the identity is taken: what comes between is its error too.
    let asked = Instant::now();
    let mut identity = identity::fresh(wish.hostname.clone(), wish.oneshot)?;
    // Not in every guest: a file that covers one in /proc keeps user namespaces in the guest from a /proc of their own.
    if wish.root == RootState::Kept {
        identity.boot_id = Some(identity::random()?);
    }
    let agent = guest.identify(identity).await.map_err(MeetError::Guest)?;
    if asked.elapsed() > CLOCK_ERROR {
        set_clock(guest).await.map_err(MeetError::Guest)?;
    }
    Ok(agent)
}

/// Sets the guest's clock by what is known of it: each look at it, however slow, lay between its question and its answer,
/// and moving a clock by a difference takes no harm from a slow message.
async fn set_clock(guest: &Guest) -> Result<(), GuestError> {
    let mut ahead = ClockBounds::default();
    for _ in 0..CLOCK_LOOKS {
        let before = identity::unix_now_ns();
        let theirs = guest.clock(0).await?;
        ahead.narrow(before, theirs, identity::unix_now_ns());
        if ahead.width() <= CLOCK_ERROR.as_nanos() {
            break;
        }
    }
    match ahead.middle() {
        0 => Ok(()),
        by => guest.clock(by).await.map(drop),
    }
}

/// By how much this host's clock can be ahead of a guest's, nanoseconds.
#[derive(Debug)]
struct ClockBounds {
    least: i128,
    most: i128,
}

impl Default for ClockBounds {
    fn default() -> Self {
        Self { least: i128::MIN / 2, most: i128::MAX / 2 }
    }
}

impl ClockBounds {
    /// A guest's clock was `theirs` at some moment between `before` and `after`.
    fn narrow(&mut self, before: u64, theirs: u64, after: u64) {
        self.least = self.least.max(i128::from(before) - i128::from(theirs));
        self.most = self.most.min(i128::from(after) - i128::from(theirs));
    }

    fn width(&self) -> u128 {
        self.most.saturating_sub(self.least).unsigned_abs()
    }

    /// The best guess; none where a clock was set between two looks, by the guest or the host's.
    fn middle(&self) -> i64 {
        if self.least > self.most {
            return 0;
        }
        i64::try_from(self.least.midpoint(self.most)).unwrap_or(0)
    }
}

/// How long to wait for the VMM's death to be known once its stream broke: it closes that before it is gone.
pub const GRACE: Duration = Duration::from_secs(5);

enum MeetError {
    Guest(GuestError),
    Vmm(VmmError),
    Root(GuestError),
    Randomness(NoRandomness),
}

impl From<NoRandomness> for MeetError {
    fn from(error: NoRandomness) -> Self {
        Self::Randomness(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_known_the_better_the_oftener_it_is_looked_at() {
        let mut ahead = ClockBounds::default();
        // 1000 behind, looked at late in one question and early in another, neither of which was quick.
        ahead.narrow(10_000, 10_900, 12_000);
        ahead.narrow(20_000, 19_100, 22_000);
        assert_eq!((ahead.least, ahead.most), (900, 1100));
        assert_eq!((ahead.width(), ahead.middle()), (200, 1000));
        // A clock that was set meanwhile says nothing any more.
        ahead.narrow(30_000, 90_000, 31_000);
        assert_eq!(ahead.middle(), 0);
    }
}
