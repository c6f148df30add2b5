//! Making a template: the whole of it, and the part of it that writes.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pyro_core::cause;
use pyro_core::config::Config;
use pyro_core::start::TemplateUse;
use pyro_core::timeline::{Observer, Step};
use pyro_core::vm::Factory;

use super::{Bench, Measure, Row, Series};

/// Each template goes into a directory of its own, which is removed again; boots that leave none alternate with them.
pub(super) async fn template(bench: &mut Bench<'_>) -> Vec<Row> {
    let measure = Measure::Template;
    let (mut builds, mut writes, mut boots) = (Series::default(), Series::default(), Series::default());
    for number in 0..bench.plan.amount.templates() {
        let boot = boot(bench).await;
        bench.keep(measure, &mut boots, boot);
        let dir = bench.scratch.path().join(format!("templates-{number}"));
        match make(bench, &dir).await {
            Ok((build, write)) => {
                builds.push(Ok(build));
                writes.push(Ok(write));
            }
            Err(why) => bench.keep(measure, &mut builds, Err(why)),
        }
        // The scratch directory takes with it what stays.
        let _ = std::fs::remove_dir_all(&dir);
    }
    vec![
        Row::new("template_build", "ms", "the template of an environment, made in this process", builds)
            .against("the same guest, booted and not saved", boots),
        Row::new("template_write", "ms", "of that: memory and disk written and synced", writes),
    ]
}

/// A boot to a guest that answers, ms.
async fn boot(bench: &Bench<'_>) -> Result<f64, String> {
    let factory = Factory { templates: TemplateUse::Nothing, ..bench.factory.clone() };
    let begin = Instant::now();
    let mut vm = bench.guest_of(factory).await?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    vm.stop().await.map_err(|error| cause::chain(&error))?;
    Ok(took)
}

/// All of it, and from the state's being saved to everything's being on disk, ms.
async fn make(bench: &Bench<'_>, dir: &Path) -> Result<(f64, f64), String> {
    std::fs::create_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let steps = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&steps);
    let observer =
        move |step| told.lock().unwrap_or_else(PoisonError::into_inner).push((step, Instant::now()));
    let config = Config { template_dir: dir.to_owned(), ..Config::clone(&bench.factory.config) };
    let factory =
        Factory { config: config.into(), observer: Some(Observer::new(observer)), ..bench.factory.clone() };
    let mut remarks = Vec::new();
    let begin = Instant::now();
    let made = factory.warm(&bench.environment, &mut |remark| remarks.push(remark.to_string())).await;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    if !made.map_err(|error| cause::chain(&error))? {
        return Err(format!("no template was made: {}", remarks.join("; ")));
    }
    let steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
    let at = |wanted| steps.iter().find(|(step, _)| *step == wanted).map(|(_, when)| *when);
    let (begin, end) =
        at(Step::BuildStateSaved).zip(at(Step::BuildSynced)).ok_or("its steps were not seen")?;
    Ok((took, end.duration_since(begin).as_secs_f64() * 1e3))
}
