//! `pyro run`: one command in a throw-away microVM.

use std::ffi::OsString;

use pyro_core::command::{CommandLine, CommandOptions, Streams};
use pyro_core::run::{RunEvent, run_in_vm};
use pyro_core::start::{StartMethod, TemplateUse};
use pyro_core::vm::{ExecutionMode, RunReport, VmRequest, timeout};

use crate::error::{CliError, print_json};
use crate::output::errln;
use crate::progress::Pull;
use crate::{places, terminal};

const DEFAULT_TIMEOUT_SECONDS: u64 = 30;

/// Run one command in a throw-away microVM and exit with its exit code
#[derive(clap::Args)]
#[command(
    override_usage = "pyro run [OPTIONS] <ENVIRONMENT> -- <COMMAND>...",
    after_help = "Several words after -- are the program and its arguments, untouched by any shell; a single word is a \
                  shell command line.\n\nExamples:\n  pyro run debian:12 -- git --version\n  pyro run debian:12 -- 'echo \
                  $HOME | wc -c'\n  pyro run -it debian:12 -- bash\n  tar c . | pyro run debian:12 -- tar tv"
)]
pub struct Args {
    /// The environment, such as debian:12
    environment: String,
    /// The command
    #[arg(value_name = "COMMAND")]
    command_args: Vec<OsString>,
    /// Virtual CPUs, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpu_count: u32,
    /// Memory in MiB, 256 to 32768
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mem_mib: u32,
    /// Kill the command after so many seconds and exit 124 [default: 30; none with -t]
    #[arg(long, value_name = "SECONDS")]
    timeout_seconds: Option<u64>,
    /// Idle time after which the VM may be reaped: 60 to 86400, 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    ttl_seconds: u64,
    /// Give the guest outbound network access
    #[arg(long)]
    network: bool,
    /// Run on this host, with NO isolation, when no guest can run
    #[arg(long)]
    allow_host_compat: bool,
    /// Print one JSON object with the result instead of the command's output
    #[arg(long)]
    json: bool,
    /// Pass standard input on although it is a terminal
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Run the command on this terminal
    #[arg(short = 't', long, conflicts_with = "json")]
    tty: bool,
    /// Boot the guest even where a saved one could be restored
    #[arg(long)]
    cold: bool,
    /// Show where the time went
    #[arg(long)]
    timings: bool,
    /// What runs the guest: auto, firecracker or qemu [env: PYRO_BACKEND]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        let command = CommandLine::from_words(self.command_args).ok_or_else(|| {
            CliError::Usage("there is no command to run: pyro run ENVIRONMENT -- COMMAND...".into())
        })?;
        let mut factory = places::factory(self.backend.as_deref())?;
        if self.cold {
            factory.templates = TemplateUse::Nothing;
        }
        let request = VmRequest {
            environment: self.environment,
            vcpu_count: self.vcpu_count,
            mem_mib: self.mem_mib,
            ttl_seconds: self.ttl_seconds,
            network: self.network,
            allow_host_compat: self.allow_host_compat,
        };
        let seconds = match self.timeout_seconds {
            None if self.tty => None,
            None => Some(DEFAULT_TIMEOUT_SECONDS),
            given => given,
        };
        let limit =
            seconds.map(timeout).transpose().map_err(|error| CliError::new(error.to_string(), None))?;
        let options = CommandOptions {
            timeout: limit,
            env: terminal_environment(self.tty),
            ..CommandOptions::default()
        };
        let forward_stdin = self.interactive || self.tty || !terminal::stdin_is_terminal();
        let mut streams = Streams { captured: self.json, ..Streams::discarded() };
        if forward_stdin {
            streams.stdin = Some(terminal::input());
        }
        if !self.json {
            streams.stdout = Box::new(tokio::io::stdout());
            streams.stderr = Box::new(tokio::io::stderr());
        }
        if self.tty {
            streams.terminal = Some(terminal::sizes("-t")?);
        }
        let mut raw = None;
        let pull = Pull::new(&request.environment);
        let tty = self.tty;
        let announce = |event| {
            for line in lines(&event) {
                errln!("{line}");
            }
            // Raw only now that the command is about to have the terminal: until here Ctrl-C must end pyro.
            if tty && matches!(event, RunEvent::Execute { .. }) {
                raw = terminal::Raw::enter();
            }
        };
        let environment = request.environment.clone();
        let report = run_in_vm(factory, request, &command, &options, &mut streams, announce, move |event| {
            pull.show(&event)
        })
        .await;
        drop(raw);
        let report = report?;
        if report.timed_out {
            let seconds = seconds.unwrap_or_default();
            errln!("[run] timed out after {seconds} s: the command and all it started were killed");
        }
        errln!(
            "[run] environment={environment} execution_mode={} exit_code={} duration_ms={}",
            report.execution_mode,
            report.exit_code,
            report.duration_ms
        );
        if self.timings {
            show_timings(&report);
        }
        if self.json {
            print_json(&serde_json::to_value(&report).unwrap_or_default());
        }
        Ok(exit_code(&report))
    }
}

fn show_timings(report: &RunReport) {
    let how = report.start.map_or("none", StartMethod::name);
    errln!("[run] timings start={how}");
    for phase in &report.timings {
        let name = phase.step.to_string();
        errln!("      {name:22} {:8.1} ms   at {:8.1} ms", phase.took_ms, phase.at_ms);
    }
}

fn exit_code(report: &RunReport) -> u8 {
    u8::try_from(report.exit_code).unwrap_or(1)
}

/// Variables that tell a program which terminal the person has.
fn terminal_environment(tty: bool) -> Vec<(OsString, OsString)> {
    let names = ["TERM", "COLORTERM"];
    let values = names.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    if tty { values.collect() } else { Vec::new() }
}

fn lines(event: &RunEvent) -> Vec<String> {
    match event {
        RunEvent::Create { environment } => vec![format!("[run] phase=create environment={environment}")],
        RunEvent::Start(info) => vec![format!("[run] phase=start vm_id={}", info.vm_id)],
        RunEvent::Remark(remark) => vec![format!("[run] {remark}")],
        RunEvent::Execute { info, host_reason } => {
            let mut lines = Vec::new();
            if info.execution_mode == ExecutionMode::HostCompat {
                lines.push(
                    "[run] WARNING: no guest can run; the command runs ON THIS HOST with NO isolation \
                     (--allow-host-compat)"
                        .into(),
                );
                lines.push(format!(
                    "[run] execution_mode=host_compat reason={}",
                    host_reason.as_deref().unwrap_or("unknown")
                ));
            }
            lines.push(format!("[run] phase=execute vm_id={}", info.vm_id));
            lines
        }
    }
}
