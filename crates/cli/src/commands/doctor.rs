//! `pyro doctor`: what this host can run, why, and what would make it better.

use pyro_core::doctor::{self, CheckStatus, PLATFORM};

use crate::error::{CliError, print_json};
use crate::hint;
use crate::output::{errln, outln};
use crate::places;

/// Show what this host can run, why, and what would make it better
#[derive(clap::Args)]
pub struct Args {
    /// The platform to look at
    #[arg(long, default_value = PLATFORM)]
    platform: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// What should run the guest: auto, firecracker or qemu [env: PYRO_BACKEND]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
}

impl Args {
    /// Looks and reports; exits 1 when no guest can run.
    pub async fn execute(self) -> Result<u8, CliError> {
        if self.platform != PLATFORM {
            return Err(CliError::new(
                format!("the platform {:?} is not supported", self.platform),
                Some(format!("the only platform is {PLATFORM}")),
            ));
        }
        if !self.json {
            errln!("[doctor] booting the guest under every candidate backend ...");
        }
        let config = places::config()?;
        let preference = places::preference(self.backend.as_deref())?;
        let report = doctor::examine(&config, preference, &places::search_path()).await;
        if self.json {
            print_json(&report.payload(hint::for_people));
        } else {
            let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
            for check in &report.checks {
                let status = match check.status {
                    CheckStatus::Ok => "ok  ",
                    CheckStatus::Warn => "note",
                    CheckStatus::Fail => "FAIL",
                };
                outln!("{status}  {:width$}  {}", check.name, check.detail.replace('\n', "\n      "));
                if let Some(remedy) = &check.remedy {
                    outln!("      {:width$}  -> {}", "", hint::for_people(remedy));
                }
            }
            outln!("");
            outln!(
                "{}",
                if report.runtime_ok() { "Guests can run here." } else { "No guest can run here yet." }
            );
        }
        Ok(u8::from(!report.runtime_ok()))
    }
}
