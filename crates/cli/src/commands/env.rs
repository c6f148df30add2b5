//! `pyro env`: the environments of this host.

use clap::Subcommand;
use pyro_core::backend::{self, Probe};
use pyro_core::environment::Status;
use pyro_core::runtime::KERNEL;
use serde_json::{Value, json};

use crate::error::{CliError, print_json};
use crate::places;
use crate::progress::Pull;

/// List, inspect, install and remove environments
#[derive(Subcommand)]
pub enum Env {
    /// List the environments of the catalog
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show everything about one environment
    Inspect {
        /// The environment, such as debian:12
        environment: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Install an environment
    Pull {
        /// The environment, such as debian:12
        environment: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove what no environment of the catalog uses
    Prune {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

impl Env {
    /// Whether failures are to be printed as JSON.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::List { json }
            | Self::Inspect { json, .. }
            | Self::Pull { json, .. }
            | Self::Prune { json } => *json,
        }
    }

    /// Does it.
    pub async fn execute(self) -> Result<u8, CliError> {
        match self {
            Self::List { json } => list(json),
            Self::Inspect { environment, json } => inspect(&environment, json),
            Self::Pull { environment, json } => pull(&environment, json).await,
            Self::Prune { json } => prune(json),
        }
    }
}

fn list(json: bool) -> Result<u8, CliError> {
    let environments = places::factory(None)?.store().list()?;
    if json {
        print_json(&json!({
            "catalog_version": pyro_core::environment::catalog_version(),
            "environments": environments,
        }));
        return Ok(0);
    }
    let width = environments.iter().map(|e| e.name.len()).max().unwrap_or_default();
    for environment in environments {
        let state = if environment.installed { "installed" } else { "not installed" };
        println!("{:width$}  {state:13}  {}", environment.name, environment.description);
    }
    Ok(0)
}

fn inspect(name: &str, json: bool) -> Result<u8, CliError> {
    let status = places::factory(None)?.store().inspect(name)?;
    show(&status, json)
}

/// Installs it and, meanwhile, finds out what runs guests here, so that no first run waits for that.
async fn pull(name: &str, json: bool) -> Result<u8, CliError> {
    let factory = places::factory(None)?;
    factory.store().inspect(name)?;
    let progress = Pull::new(name);
    let probing = async {
        if let Ok(bundle) = factory.bundle() {
            // What is wrong with a backend is for `run` and `doctor` to say: the environment is useful without.
            let _ = backend::choose(&factory.config, &bundle, factory.preference, Probe::IfNeeded).await;
        }
    };
    let (pulled, ()) = tokio::join!(factory.pull(name, move |event| progress.show(&event)), probing);
    pulled?;
    show(&factory.store().inspect(name)?, json)
}

fn show(status: &Status, json: bool) -> Result<u8, CliError> {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if status.installed {
        // The manifest names the kernel's file; without a runtime there is none.
        let kernel = places::factory(None)?.bundle().ok().and_then(|bundle| bundle.artifact_path(KERNEL));
        value["kernel_image"] = kernel.map(|path| path.display().to_string()).into();
    }
    if json {
        print_json(&value);
    } else if let Value::Object(fields) = value {
        let width = fields.keys().map(String::len).max().unwrap_or_default();
        for (name, value) in fields {
            let text = match value {
                Value::String(text) => text,
                Value::Null => "-".into(),
                Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
                other => other.to_string(),
            };
            if !text.is_empty() {
                println!("{name:width$}  {text}");
            }
        }
    }
    Ok(0)
}

fn prune(json: bool) -> Result<u8, CliError> {
    let pruned = places::factory(None)?.store().prune(&[])?;
    if json {
        print_json(&serde_json::to_value(&pruned).unwrap_or_default());
    } else {
        for dir in &pruned.deleted_environment_dirs {
            println!("{dir}");
        }
        eprintln!("[prune] removed={}", pruned.count);
    }
    Ok(0)
}
