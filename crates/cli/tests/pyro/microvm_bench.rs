//! `pyro bench`: that it measures all it says, on real microVMs, and leaves nothing. No figure is judged here.

use std::io::{BufRead, BufReader};
use std::process::Command;

use serde_json::Value;

use crate::support::{Said, World, children, eventually, finish, running};

/// Every row of a default run, and whether it is compared with something.
const ROWS: [(&str, &str, bool); 40] = [
    ("cold_start", "ms", true),
    ("warm_start", "ms", true),
    ("parallel_batch", "ms", true),
    ("parallel_each", "ms", false),
    ("busy_start", "ms", false),
    ("exec_round_trip", "ms", true),
    ("bytes_out", "MB/s", false),
    ("bytes_in", "MB/s", false),
    ("copy_memory", "MiB", false),
    ("template_build", "ms", true),
    ("template_write", "ms", false),
    ("idle_memory", "MiB", true),
    ("first_memory", "MiB", true),
    ("vmm_memory", "MiB", false),
    ("disk", "MiB", false),
    ("workspace_create", "ms", true),
    ("workspace_exec", "ms", true),
    ("workspace_snapshot", "ms", true),
    ("workspace_reset", "ms", true),
    ("checkpoint", "ms", false),
    ("checkpoint_pause", "ms", false),
    ("checkpoint_memory", "MiB", true),
    ("fork", "ms", true),
    ("fork_memory", "MiB", true),
    ("reflink_snapshot", "ms", true),
    ("reflink_reset", "ms", true),
    // This environment has no git.
    ("workspace_diff", "ms", false),
    ("workspace_push", "ms", true),
    ("mcp_ready", "ms", true),
    ("mcp_exec", "ms", true),
    ("mcp_exec_after", "ms", true),
    ("mcp_run", "ms", true),
    ("launch", "ms", true),
    ("launch_added", "ms", false),
    ("launch_jailed", "ms", true),
    ("launch_jailed_added", "ms", false),
    ("firecracker_cold", "ms", false),
    ("firecracker_warm", "ms", false),
    ("firecracker_memory", "MiB", false),
    ("firecracker_own_memory", "MiB", false),
];

#[test]
fn every_row_is_measured() {
    let world = World::new();
    let kept = world.home.path().join("run.json");
    let words = ["bench", "--quick", "--json", "--parallel", "3", "--output", kept.to_str().unwrap()];
    // It measures for minutes, and for many on a slow host: the guard against hangs is the runner's.
    let said = Said::from(world.command(&[&words[..], &["debian:12-base"]].concat()).output().unwrap());
    let report = said.json();
    // First, and without the rest: what went wrong says more than that something did.
    let rows = report["rows"].as_array().unwrap();
    let of = |series: &Value| series["failures"].as_array().cloned().unwrap_or_default();
    let failures: Vec<_> = rows
        .iter()
        .flat_map(|row| of(row).into_iter().chain(of(&row["floor"])).map(|why| (&row["name"], why)))
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(said.code, Some(0), "{}", said.err);
    let written: Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    assert_eq!(report, written);
    assert_eq!((&report["schema"], &report["quick"]), (&1.into(), &true.into()));
    assert!(report["when"].as_f64().unwrap() > 1e9 && report["seconds"].as_f64().unwrap() > 0.0);
    assert!(report["floor"]["description"].is_string() && report["floor"]["missing"].is_null(), "{report}");

    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ROWS.map(|(name, _, _)| name));
    for (row, (name, unit, compared)) in rows.iter().zip(ROWS) {
        assert_eq!(row["unit"], unit, "{row}");
        assert!(!row["what"].as_str().unwrap().is_empty(), "{row}");
        assert!(row["other_work"].as_f64().unwrap() >= 0.0, "{row}");
        if let Some(why) = row["pending"].as_str() {
            // Only Firecracker may be missing, or not run guests.
            assert!(
                !why.is_empty() && (name.starts_with("launch") || name.starts_with("firecracker_")),
                "{row}"
            );
            check(row, 0, 0.0);
            continue;
        }
        let n = match name {
            "parallel_each" => 6,
            "exec_round_trip" => 10,
            _ => 2,
        };
        // A copy need not take memory that an earlier one had not taken before.
        let least = match name {
            "copy_memory" => -1.0,
            // A difference.
            "launch_added" | "launch_jailed_added" => f64::MIN,
            _ => 0.0,
        };
        check(row, n, least);
        if compared {
            check(&row["floor"], 2, 0.0);
            assert!(row["ratio"].as_f64().unwrap() > 0.0, "{row}");
        } else {
            assert!(row["floor"].is_null() && row["ratio"].is_null(), "{row}");
        }
    }

    let print = &report["fingerprint"];
    for name in [
        "host_kernel",
        "cpu",
        "backend",
        "accelerator",
        "backend_reason",
        "vmm_version",
        "pyro_version",
        "runtime",
        "environment",
        "environment_version",
    ] {
        assert!(!print[name].as_str().unwrap().is_empty(), "{name}: {print}");
    }
    for name in ["cores", "memory_mib", "memory_available_mib", "vcpu_count", "mem_mib"] {
        assert!(print[name].as_u64().unwrap() > 0, "{name}: {print}");
    }
    assert_eq!(print["load"].as_array().unwrap().len(), 3);
    assert!(print["component_versions"]["kernel"].is_string());
    nothing_is_left(&world);
}

#[test]
fn what_takes_long_is_measured_when_it_is_named() {
    let world = World::new();
    let words = ["bench", "--quick", "--json", "--only", "idle,cycles", "debian:12-base"];
    let said = world.pyro(&words);
    assert_eq!(said.code, Some(0), "{said:?}");
    let report = said.json();
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    let wanted =
        ["idle_cpu", "idle_cpu_added", "cycle", "cycles_left", "cycles_descriptors", "cycles_memory"];
    assert_eq!(names, wanted);
    for (row, n) in rows.iter().zip([2, 2, 8, 2, 2, 2]) {
        check(row, n, f64::MIN);
    }
    check(&rows[0]["floor"], 2, f64::MIN);
    assert!(rows[2]["median"].as_f64().unwrap() > 0.0, "{report}");
    nothing_is_left(&world);
}

/// `n` samples above `least`, and percentiles that are in order.
fn check(series: &Value, n: usize, least: f64) {
    assert_eq!((&series["failed"], series["failures"].as_array().unwrap().len()), (&0.into(), 0), "{series}");
    assert_eq!(series["n"], n, "{series}");
    let samples = series["samples"].as_array().unwrap();
    assert_eq!(samples.len(), n, "{series}");
    assert!(samples.iter().all(|sample| sample.as_f64().unwrap() > least), "{series}");
    let all = ["min", "median", "p95", "max"].map(|name| series[name].as_f64());
    assert!(all.is_sorted() && all.iter().all(|one| one.is_some() == (n > 0)), "{series}");
}

/// Its directory goes with it.
fn nothing_is_left(world: &World) {
    let left: Vec<_> =
        world.files().into_iter().filter(|path| path.to_string_lossy().contains(".bench-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_interrupt_leaves_nothing() {
    let world = World::new();
    for line in [
        "[bench] preparing the floor",
        "[bench] measuring template",
        "[bench] measuring idle_memory",
        "[bench] measuring launch",
    ] {
        let only = ["bench", "--quick", "--only", "template,idle_memory,launch", "debian:12-base"];
        let mut child = world.start(&only);
        let mut talk = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.lines().any(|said| said == line) {
            assert!(talk.read_line(&mut said).unwrap() > 0, "{said}");
        }
        let bench = child.id();
        eventually("it starts something", || !children(bench).is_empty());
        let mut started = children(bench);
        let grandchildren: Vec<_> = started.iter().flat_map(|child| children(*child)).collect();
        started.extend(grandchildren);
        Command::new("kill").args(["-INT", &bench.to_string()]).status().unwrap();
        assert_eq!(finish(child).code, Some(130), "{line}");
        eventually("what it started has ended", || !started.iter().any(|pid| running(*pid)));
        nothing_is_left(&world);
    }
}
