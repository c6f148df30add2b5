//! What can be measured, how many samples of it are taken, and how long that will be.

use std::time::Duration;

use super::cpu::IdlePlan;

/// One measurement, which gives one row or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// A whole `pyro run` that boots.
    ColdStart,
    /// A whole `pyro run` that restores.
    WarmStart,
    /// Many of those at once.
    Parallel,
    /// A whole `pyro run` that boots while every core has other work.
    BusyStart,
    /// A command over a connection that is there.
    Exec,
    /// Bytes out of a guest and into it, and what that takes of this process's memory.
    Bytes,
    /// Making a template.
    Template,
    /// Memory of one more VM that does nothing.
    IdleMemory,
    /// The VMM's own memory after many commands.
    VmmMemory,
    /// Disk of one more VM.
    Disk,
    /// Whole processes of `pyro workspace`.
    Workspace,
    /// Workspaces whose memory is kept and shared.
    Fork,
    /// The same where copies share what they have in common.
    Reflink,
    /// Many files of a workspace.
    WorkspaceFiles,
    /// The MCP server, and calls of its tools.
    Mcp,
    /// Firecracker until it has loaded a saved machine, without and with a jail.
    Launch,
    /// Starts and memory under Firecracker.
    Firecracker,
    /// Processor time of many workspaces that nobody uses.
    Idle,
    /// Many workspaces made, used and deleted.
    Cycles,
}

impl Measure {
    /// All of them, in the order in which they are taken: what is sensitive to a warm machine comes early.
    pub const ALL: [Self; 19] = [
        Self::ColdStart,
        Self::WarmStart,
        Self::Parallel,
        Self::BusyStart,
        Self::Exec,
        Self::Bytes,
        Self::Template,
        Self::IdleMemory,
        Self::VmmMemory,
        Self::Disk,
        Self::Workspace,
        Self::Fork,
        Self::Reflink,
        Self::WorkspaceFiles,
        Self::Mcp,
        Self::Launch,
        Self::Firecracker,
        Self::Idle,
        Self::Cycles,
    ];

    /// Whether it takes so long that it is only taken when it is asked for by name.
    pub fn is_long(self) -> bool {
        matches!(self, Self::Idle | Self::Cycles)
    }

    /// As people ask for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ColdStart => "cold_start",
            Self::WarmStart => "warm_start",
            Self::Parallel => "parallel",
            Self::BusyStart => "busy_start",
            Self::Exec => "exec",
            Self::Bytes => "bytes",
            Self::Template => "template",
            Self::IdleMemory => "idle_memory",
            Self::VmmMemory => "vmm_memory",
            Self::Disk => "disk",
            Self::Workspace => "workspace",
            Self::Fork => "fork",
            Self::WorkspaceFiles => "workspace_files",
            Self::Mcp => "mcp",
            Self::Launch => "launch",
            Self::Firecracker => "firecracker",
            Self::Reflink => "reflink",
            Self::Idle => "idle",
            Self::Cycles => "cycles",
        }
    }

    /// The names of its rows.
    pub fn rows(self) -> &'static [&'static str] {
        match self {
            Self::Parallel => &["parallel_batch", "parallel_each"],
            Self::Exec => &["exec_round_trip"],
            Self::Bytes => &["bytes_out", "bytes_in", "copy_memory"],
            Self::Template => &["template_build", "template_write"],
            Self::ColdStart => &["cold_start"],
            Self::WarmStart => &["warm_start"],
            Self::BusyStart => &["busy_start"],
            Self::IdleMemory => &["idle_memory", "first_memory"],
            Self::VmmMemory => &["vmm_memory"],
            Self::Disk => &["disk"],
            Self::Workspace => {
                &["workspace_create", "workspace_exec", "workspace_snapshot", "workspace_reset"]
            }
            Self::Fork => &["checkpoint", "checkpoint_pause", "checkpoint_memory", "fork", "fork_memory"],
            Self::Reflink => &["reflink_snapshot", "reflink_reset"],
            Self::Idle => &["idle_cpu", "idle_cpu_added"],
            Self::Cycles => &["cycle", "cycles_left", "cycles_descriptors", "cycles_memory"],
            Self::WorkspaceFiles => &["workspace_diff", "workspace_push"],
            Self::Mcp => &["mcp_ready", "mcp_exec", "mcp_exec_after", "mcp_run"],
            Self::Launch => &["launch", "launch_added", "launch_jailed", "launch_jailed_added"],
            Self::Firecracker => {
                &["firecracker_cold", "firecracker_warm", "firecracker_memory", "firecracker_own_memory"]
            }
        }
    }
}

impl std::str::FromStr for Measure {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|measure| measure.name() == text)
            .ok_or_else(|| format!("{text:?} is no measurement: {}", Self::ALL.map(Self::name).join(", ")))
    }
}

impl std::fmt::Display for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How many samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Starts, and all else that takes about as long.
    pub runs: usize,
    /// Starts at once.
    pub parallel: usize,
    /// Minutes for which idle workspaces are watched.
    pub minutes: usize,
    /// Workspaces made, used and deleted.
    pub cycles: usize,
    /// A look whether it works: less of everything that takes long, so the rows say less.
    pub quick: bool,
}

impl Amount {
    /// Samples of a default measurement.
    pub const RUNS: usize = 20;
    /// Samples of a quick one.
    pub const QUICK_RUNS: usize = 2;
    /// Starts at once.
    pub const PARALLEL: usize = 8;
    /// Minutes of idleness.
    pub const MINUTES: usize = 10;
    /// Workspaces made, used and deleted.
    pub const CYCLES: usize = 1000;

    /// Rounds of round trips, and round trips in each.
    pub(super) fn round_trips(&self) -> (usize, usize) {
        if self.quick { (self.runs, 5) } else { (self.runs.div_ceil(4), 40) }
    }

    /// MiB copied at once, and how often.
    pub(super) fn copies(&self) -> (u64, usize) {
        if self.quick { (16, self.runs) } else { (256, self.runs.div_ceil(3)) }
    }

    /// Templates made.
    pub(super) fn templates(&self) -> usize {
        if self.quick { self.runs } else { self.runs.div_ceil(2) }
    }

    /// How many idle workspaces are watched, and for how long.
    pub(super) fn idle(&self) -> IdlePlan {
        let plan = |count, rounds, seconds| IdlePlan { count, rounds, each: Duration::from_secs(seconds) };
        if self.quick { plan(3, self.runs, 2) } else { plan(20, self.minutes, 60) }
    }

    /// Workspaces made, used and deleted between two looks at what is left, and how many looks.
    pub(super) fn cycles(&self) -> (usize, usize) {
        if self.quick { (4, self.runs) } else { (self.cycles.div_ceil(10), self.cycles.min(10)) }
    }

    /// How often many files are looked at and moved; files that are moved, and looked at.
    pub(super) fn files(&self) -> (usize, usize, usize) {
        if self.quick { (self.runs, 300, 1000) } else { (self.runs.div_ceil(4), 10_000, 50_000) }
    }

    /// VMMs looked at, and commands before that.
    pub(super) fn commands(&self) -> (usize, usize) {
        if self.quick { (self.runs, 10) } else { (self.runs.div_ceil(7), 500) }
    }
}

/// What the first starts took, in seconds, ours and the floor's together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    pub(super) cold: f64,
    pub(super) warm: f64,
}

/// How long these measurements take, about. The weights are what they took where they were first taken.
pub(super) fn estimate(measures: &[Measure], amount: &Amount, speed: Speed) -> Duration {
    let Speed { cold, warm } = speed;
    let runs = amount.runs as f64;
    let seconds = |measure: &Measure| match measure {
        Measure::ColdStart => runs * cold,
        Measure::WarmStart => runs * warm,
        Measure::Parallel => {
            let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
            runs * warm * 1.5 * amount.parallel as f64 / cores
        }
        Measure::BusyStart => runs * cold,
        Measure::Exec => {
            let (rounds, each) = amount.round_trips();
            warm + 0.2 * warm * (rounds * each) as f64
        }
        Measure::Bytes => {
            let (mib, copies) = amount.copies();
            copies as f64 * 2.0 * (mib as f64 / 128.0) * 8.0 * warm
        }
        Measure::Template => 2.0 * amount.templates() as f64 * cold,
        Measure::IdleMemory => runs * (2.0 * warm + 0.2),
        Measure::VmmMemory => {
            let (vms, commands) = amount.commands();
            vms as f64 * warm * (1.0 + 0.15 * commands as f64)
        }
        Measure::Disk => runs * warm,
        // Two starts, a dozen commands, 200 MiB written, two copies of them.
        Measure::Workspace | Measure::Reflink => runs * 30.0 * warm,
        // Ten starts on all cores, twenty commands.
        Measure::Fork => runs * 25.0 * warm,
        Measure::Idle => {
            let IdlePlan { count, rounds, each } = amount.idle();
            3.0 * count as f64 * warm + rounds as f64 * each.as_secs_f64()
        }
        Measure::Cycles => {
            let (cycles, looks) = amount.cycles();
            (cycles * looks) as f64 * 3.0 * warm + 0.5 * looks as f64
        }
        Measure::WorkspaceFiles => {
            let (rounds, few, many) = amount.files();
            warm * (30.0 + 0.01 * many as f64 + rounds as f64 * (10.0 + (few + many / 4) as f64 / 250.0))
        }
        Measure::Mcp => runs * 6.0 * warm,
        // Each start a few hundredths of a second, four of them; and the machine that they load.
        Measure::Launch => 3.0 + 0.2 * runs,
        // Where guests do not run there, only looking takes time.
        Measure::Firecracker => 6.0 + 0.5 * runs,
    };
    Duration::from_secs_f64(measures.iter().map(seconds).sum::<f64>().clamp(0.0, 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for measure in Measure::ALL {
            assert_eq!(measure.name().parse(), Ok(measure));
        }
        assert!("nonsense".parse::<Measure>().unwrap_err().contains("warm_start"));
        let mut rows: Vec<_> = Measure::ALL.into_iter().flat_map(Measure::rows).collect();
        let all = rows.len();
        rows.sort();
        rows.dedup();
        assert_eq!(rows.len(), all, "no two rows have one name");
    }

    #[test]
    fn every_amount_is_at_least_one() {
        for quick in [false, true] {
            let amount = Amount { runs: 1, parallel: 1, minutes: 1, cycles: 1, quick };
            assert!(amount.cycles() >= (1, 1) && amount.idle().rounds >= 1);
            assert!(amount.round_trips().0 >= 1 && amount.copies().1 >= 1);
            assert!(amount.templates() >= 1 && amount.commands().0 >= 1);
        }
    }

    #[test]
    fn more_takes_longer() {
        let speed = Speed { cold: 1.5, warm: 0.2 };
        let few = Amount { runs: 2, parallel: 8, minutes: 10, cycles: 1000, quick: true };
        let many = Amount { runs: 20, parallel: 8, minutes: 10, cycles: 1000, quick: false };
        assert!(estimate(&Measure::ALL, &few, speed) < estimate(&Measure::ALL, &many, speed));
        assert_eq!(estimate(&[], &many, speed), Duration::ZERO);
    }
}
