//! `pyro env`: the environments of this host.

use clap::Subcommand;
use pyro_core::backend::{self, ProbePolicy};
use pyro_core::cause;
use pyro_core::template::StoredTemplate;
use pyro_core::vm::EnvironmentInfo;
use pyro_core::workspace;
use serde_json::{Value, json};

use crate::error::{CliError, print_json};
use crate::output::{errln, outln};
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
        /// Leave the first run to boot: make no template for it now
        #[arg(long)]
        no_warm: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove old versions, leftovers, and the saved guests that starts are restored from
    Prune {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

impl Env {
    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        match self {
            Self::List { json } => list(json),
            Self::Inspect { environment, json } => inspect(&environment, json),
            Self::Pull { environment, no_warm, json } => pull(&environment, !no_warm, json).await,
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
        outln!("{:width$}  {state:13}  {}", environment.name, environment.description);
    }
    Ok(0)
}

fn inspect(name: &str, json: bool) -> Result<u8, CliError> {
    let info = places::factory(None)?.inspect(name)?;
    show(&info, json)
}

/// Installs it and, meanwhile, finds out what runs guests here; then leaves a saved guest behind, so that the first run
/// waits for neither.
async fn pull(name: &str, warm: bool, json: bool) -> Result<u8, CliError> {
    let factory = places::factory(None)?;
    factory.store().inspect(name)?;
    let progress = Pull::new(name);
    let probing = async {
        if let Ok(bundle) = factory.bundle() {
            // What is wrong with a backend is for `run` and `doctor` to say: the environment is useful without.
            let _ =
                backend::choose(&factory.config, &bundle, factory.preference, ProbePolicy::IfNeeded).await;
        }
    };
    let (pulled, ()) = tokio::join!(factory.pull(name, move |event| progress.show(&event)), probing);
    let installed = pulled?;
    if warm {
        errln!("[pull] phase=warm environment={name}");
        let warmed = factory.warm(&installed, &mut |remark| errln!("[pull] {remark}")).await;
        if let Err(error) = warmed {
            errln!("[pull] template=none: {}", cause::chain(&error));
        }
    }
    show(&factory.inspect(name)?, json)
}

fn show(info: &EnvironmentInfo, json: bool) -> Result<u8, CliError> {
    let mut value = serde_json::to_value(info).unwrap_or_default();
    if json {
        print_json(&value);
    } else if let Value::Object(fields) = &mut value {
        if let Some(templates) = &info.templates {
            fields["templates"] = templates.iter().map(line).collect();
        }
        let width = fields.keys().map(String::len).max().unwrap_or_default();
        for (name, value) in fields {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Null => "-".into(),
                Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
                other => other.to_string(),
            };
            if !text.is_empty() {
                outln!("{name:width$}  {text}");
            }
        }
    }
    Ok(0)
}

/// Words a template in a few figures.
fn line(template: &StoredTemplate) -> String {
    let StoredTemplate { kind, vcpu_count, mem_mib, backend, accelerator, bytes, .. } = template;
    let mib = bytes.div_ceil(1 << 20);
    format!("{kind}:{vcpu_count}x{mem_mib}MiB:{backend}/{accelerator}:{mib}MiB")
}

fn prune(json: bool) -> Result<u8, CliError> {
    let factory = places::factory(None)?;
    let in_use = workspace::versions_in_use(&factory.config.workspaces_dir);
    let pruned = factory.prune(&in_use)?;
    if json {
        print_json(&serde_json::to_value(&pruned).unwrap_or_default());
    } else {
        for dir in pruned.environments.deleted_environment_dirs.iter().chain(&pruned.deleted_template_dirs) {
            outln!("{dir}");
        }
        errln!(
            "[prune] removed={} templates={} template_bytes={}",
            pruned.environments.count,
            pruned.deleted_template_dirs.len(),
            pruned.freed_template_bytes
        );
    }
    Ok(0)
}
