//! `pyro demo`: the whole life cycle of one VM, step by step, printed as JSON.

use clap::Subcommand;
use pyro_core::command::{CommandLine, CommandOptions, Streams};
use pyro_core::vm::registry::Registry;
use pyro_core::vm::{VmRequest, timeout};
use serde_json::json;

use crate::error::{CliError, print_json};
use crate::output::errln;
use crate::places;
use crate::progress::Pull;

const ENVIRONMENT: &str = "debian:12";
const TIMEOUT_SECONDS: u64 = 30;

/// Run the whole life cycle of a VM and print it as JSON
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    with: Option<With>,
    /// Give the guest outbound network access
    #[arg(long)]
    network: bool,
}

#[derive(Subcommand)]
enum With {
    /// Let a local model call vm_run through a chat API
    Ollama {
        /// The chat API
        #[arg(long, default_value = "http://localhost:11434/v1")]
        base_url: String,
        /// The model
        #[arg(long, default_value = "llama3.2:3b")]
        model: String,
        /// Show every message
        #[arg(short, long)]
        verbose: bool,
    },
}

impl Args {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        if let Some(With::Ollama { .. }) = self.with {
            return Err(CliError::new("`pyro demo ollama` is not part of this version of pyro", None));
        }
        let command = CommandLine::from_words(vec!["git".into(), "--version".into()])
            .ok_or_else(|| CliError::Usage("there is no command to run".into()))?;
        let request = VmRequest { network: self.network, ..VmRequest::new(ENVIRONMENT) };
        let registry = Registry::new(places::factory(None)?);
        let pull = Pull::new(ENVIRONMENT);
        errln!("[demo] phase=create environment={ENVIRONMENT}");
        let vm = registry.create(request, move |event| pull.show(&event)).await?;
        errln!("[demo] phase=start vm_id={}", vm.vm_id);
        registry.start(&vm.vm_id).await?;
        errln!("[demo] phase=execute vm_id={}", vm.vm_id);
        let limit = timeout(TIMEOUT_SECONDS).map_err(|error| CliError::new(error.to_string(), None))?;
        let options = CommandOptions { timeout: Some(limit), ..CommandOptions::default() };
        let report = registry.exec(&vm.vm_id, &command, &options, &mut Streams::captured()).await?;
        print_json(&json!({
            "cleanup": report.cleanup,
            "command": report.command,
            "environment": report.environment,
            "environment_version": report.environment_version,
            "execution_mode": report.execution_mode,
            "backend": report.backend,
            "accelerator": report.accelerator,
            "exit_code": report.exit_code,
            "duration_ms": report.duration_ms,
            "stdout": report.stdout,
        }));
        Ok(u8::try_from(report.exit_code).unwrap_or(1))
    }
}
