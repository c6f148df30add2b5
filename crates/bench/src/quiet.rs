//! What workspaces take of the host's cores that nobody uses, minute by minute, beside as many bare VMMs.

use super::cpu::{IdlePlan, Meter};
use super::workspace::{Kept, Place};
use super::{Bench, Measure, Row, Series, memory};

/// What a workspace may live beyond the measurement, seconds: being made ready takes part of it.
const MARGIN: u64 = 900;

pub(super) async fn figures(bench: &mut Bench<'_>) -> Vec<Row> {
    let plan = bench.plan.amount.idle();
    let place = Place::usual(bench);
    let ours = workspaces(&place, plan);
    // At the same time: what else the host does hits both.
    let (ours, floor) = match &bench.floor {
        Some(bare) => {
            let (ours, floor) = tokio::join!(ours, bare.idle_cpu(plan));
            (ours, Some(floor.map_err(|why| format!("the floor: {why}"))))
        }
        None => (ours.await, None),
    };
    let added = match (&ours, &floor) {
        (Ok(ours), Some(Ok(floor))) => ours.iter().zip(floor).map(|(ours, floor)| ours - floor).collect(),
        _ => Vec::new(),
    };
    let mut series = |samples: Result<Vec<f64>, String>| {
        let mut series = Series::new();
        match samples {
            Ok(samples) => {
                samples.into_iter().for_each(|one| bench.keep(Measure::Idle, &mut series, Ok(one)))
            }
            Err(why) => bench.keep(Measure::Idle, &mut series, Err(why)),
        }
        series
    };
    let IdlePlan { count, each, .. } = plan;
    let what = format!(
        "processor time of {count} idle workspaces, their keepers and VMMs, {} s a sample",
        each.as_secs()
    );
    let (ours, added) = (series(ours), series(Ok(added)));
    let floor = floor.map_or(Series::new(), series);
    vec![
        Row::new("idle_cpu", "%", format!("{what}, of one core"), ours)
            .against(format!("{count} restored bare VMMs at the same time"), floor),
        Row::new("idle_cpu_added", "%", "that beyond the bare VMMs', of one core", added),
    ]
}

/// Percent of one core, a sample each round.
async fn workspaces(place: &Place, plan: IdlePlan) -> Result<Vec<f64>, String> {
    let ttl = plan.each.as_secs() * plan.rounds as u64 + MARGIN;
    let mut all: Vec<Kept> = Vec::new();
    for _ in 0..plan.count {
        let (kept, _) = place.create(ttl).await?;
        kept.exec(&["/bin/true"]).await?;
        all.push(kept);
    }
    let mut pids = Vec::new();
    for kept in &all {
        pids.extend(memory::chain(kept.keeper().await?));
    }
    if pids.len() < 2 * all.len() {
        return Err("a workspace has no VMM".into());
    }
    let mut samples = Vec::new();
    for _ in 0..plan.rounds {
        let meter = Meter::begin(&pids)?;
        tokio::time::sleep(plan.each).await;
        samples.push(meter.percent(&pids)?);
    }
    Ok(samples)
}
