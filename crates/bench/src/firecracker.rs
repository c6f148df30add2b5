//! Firecracker's promised figures: to the first command's end in this process, and memory beside the guest's. Pending on
//! a host where no guest's program runs under it.

use std::time::Instant;

use pyro_core::backend::{self, Preference, ProbePolicy};
use pyro_core::cause;
use pyro_core::start::{StartMethod, TemplateUse};
use pyro_core::vm::Factory;

use super::idle::Idle;
use super::{Bench, Measure, Row, Series, guest, memory};

const ROWS: [(&str, &str, &str); 4] = [
    ("firecracker_cold", "ms", "under Firecracker, order to the end of the first /bin/true: booted"),
    ("firecracker_warm", "ms", "the same, restored"),
    ("firecracker_memory", "MiB", "PSS of a Firecracker that waits, beside guest RAM"),
    ("firecracker_own_memory", "MiB", "PSS of pyro's processes beside that Firecracker"),
];

pub(super) async fn figures(bench: &mut Bench<'_>) -> Vec<Row> {
    let factory = Factory { preference: Preference::Firecracker, ..bench.factory.clone() };
    if let Err(why) = runs(&factory).await {
        return ROWS.map(|(name, unit, what)| Row::pending(name, unit, what, why.clone())).into();
    }
    // The first warm start leaves the template.
    let _ = factory.warm(&bench.environment, &mut |_| ()).await;
    let measure = Measure::Firecracker;
    let mut all = [const { Series::new() }; 4];
    for _ in 0..bench.plan.amount.runs {
        let cold = Factory { templates: TemplateUse::Nothing, ..factory.clone() };
        let samples = [first_command(bench, cold, StartMethod::Booted).await]
            .into_iter()
            .chain([first_command(bench, factory.clone(), StartMethod::Restored).await])
            .chain(beside_the_guest(bench, &factory).await);
        for (series, sample) in all.iter_mut().zip(samples) {
            bench.keep(measure, series, sample);
        }
    }
    ROWS.into_iter().zip(all).map(|((name, unit, what), series)| Row::new(name, unit, what, series)).collect()
}

async fn runs(factory: &Factory) -> Result<(), String> {
    let bundle = factory.bundle().map_err(|error| cause::chain(&error))?;
    let chosen = backend::choose(&factory.config, &bundle, factory.preference, ProbePolicy::IfNeeded).await;
    chosen.map(drop).map_err(|error| cause::chain(&error).lines().next().unwrap_or_default().to_owned())
}

async fn first_command(bench: &Bench<'_>, factory: Factory, how: StartMethod) -> Result<f64, String> {
    let begin = Instant::now();
    let mut vm = bench.guest_of(factory).await?;
    guest::run_true(&mut vm).await?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    let came = vm.how();
    vm.stop().await.map_err(|error| cause::chain(&error))?;
    if came == Some(how) { Ok(took) } else { Err(format!("it was not {}", how.name())) }
}

/// Of the VMM beside its guest's memory, and of what started it.
async fn beside_the_guest(bench: &Bench<'_>, factory: &Factory) -> [Result<f64, String>; 2] {
    let measured = async {
        let idle = Idle::start(bench, factory.preference).await?;
        let pids = memory::chain(idle.pid()?);
        let (vmm, own) = pids.split_last().ok_or("there is no process")?;
        if own.is_empty() {
            return Err("there is no VMM".to_owned());
        }
        let mem_mib = pyro_core::vm::VmRequest::new("").mem_mib;
        let of_vmm = memory::pss_beside_guest_mib(*vmm, mem_mib);
        let of_own = own.iter().map(|pid| memory::pss_mib(*pid)).sum();
        idle.end().await?;
        Ok([of_vmm, of_own])
    };
    measured.await.unwrap_or_else(|why| [Err(why.clone()), Err(why)])
}
