//! Starts from saved guests, as people see them: the first run, the second, `--timings`, `env inspect` and `env prune`.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use pyro_core::backend::Preference;
use serde_json::Value;

use crate::backends::on_each_backend;
use crate::support::{World, children, eventually, finish, prepared, running};

on_each_backend! {
    the_first_run_boots_and_every_later_one_is_restored
    eight_first_runs_at_once_make_one_template
    pull_warms_inspect_shows_and_prune_removes
    pruning_beside_starts_breaks_neither
    an_interrupted_first_run_leaves_no_half_of_a_template
}

/// A world whose cache has the prepared environments and nothing else: no templates.
fn world(backend: Preference) -> World {
    let mut world = World::on(backend);
    let cache = world.home.path().join("environments");
    std::fs::create_dir(&cache).unwrap();
    for entry in std::fs::read_dir(prepared("PYRO_ENVIRONMENT_CACHE_DIR")).unwrap().flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with('.') {
            std::os::unix::fs::symlink(entry.path(), cache.join(name)).unwrap();
        }
    }
    world.set("PYRO_ENVIRONMENT_CACHE_DIR", &cache);
    world
}

fn templates(world: &World) -> Vec<PathBuf> {
    let dir = world.home.path().join("environments/.templates");
    let keys = std::fs::read_dir(dir).into_iter().flatten().flatten();
    keys.map(|key| key.path().join("template")).filter(|path| path.exists()).collect()
}

const JSON: [&str; 7] = ["run", "--json", "--mem-mib", "256", "debian:12-base", "--", "echo hello"];

fn steps(report: &Value) -> Vec<&str> {
    report["timings"].as_array().unwrap().iter().map(|phase| phase["step"].as_str().unwrap()).collect()
}

fn the_first_run_boots_and_every_later_one_is_restored(backend: Preference) {
    let world = world(backend);
    let first = world.pyro(&JSON);
    assert!(first.err.contains("[run] template=building"), "{first:?}");
    let report = first.json();
    assert_eq!((&report["start"], &report["stdout"]), (&"booted".into(), &"hello\n".into()));
    assert!(steps(&report).contains(&"build_published"), "{report}");
    for _ in 0..3 {
        let later = world.pyro(&JSON);
        assert!(!later.err.contains("template="), "{later:?}");
        let report = later.json();
        assert_eq!((&report["start"], &report["stdout"]), (&"restored".into(), &"hello\n".into()));
        let whole = [
            "prepared",
            "template_opened",
            "disk_made",
            "vmm_answered",
            "state_loaded",
            "connected",
            "identified",
            "executed",
            "stopped",
        ];
        assert_eq!(steps(&report), whole);
        let phases = report["timings"].as_array().unwrap();
        let sum: f64 = phases.iter().map(|phase| phase["took_ms"].as_f64().unwrap()).sum();
        let last = phases.last().unwrap()["at_ms"].as_f64().unwrap();
        assert!((sum - last).abs() < 0.2, "the phases are the whole: {report}");
    }
    assert_eq!(templates(&world).len(), 1);
    let cold =
        world.pyro(&["run", "--cold", "--timings", "--mem-mib", "256", "debian:12-base", "--", "true"]);
    assert!(cold.err.contains("[run] timings start=booted\n"), "{cold:?}");
    assert!(cold.err.lines().any(|line| line.trim_start().starts_with("vmm_answered ")), "{cold:?}");
    assert!(!cold.err.contains("build_"), "{cold:?}");
}

fn eight_first_runs_at_once_make_one_template(backend: Preference) {
    let world = world(backend);
    let children: Vec<_> = (0..8).map(|_| world.start(&JSON)).collect();
    let mut starts: Vec<String> = Vec::new();
    for child in children {
        let said = finish(child);
        assert_eq!(said.code, Some(0), "{said:?}");
        let report = said.json();
        assert_eq!(report["stdout"], "hello\n");
        starts.push(report["start"].as_str().unwrap().to_owned());
    }
    starts.sort();
    assert_eq!(starts[0], "booted");
    assert_eq!(starts[1..], vec!["restored"; 7]);
    assert_eq!(templates(&world).len(), 1);
}

fn pull_warms_inspect_shows_and_prune_removes(backend: Preference) {
    let world = world(backend);
    let cold = world.pyro(&["env", "pull", "--no-warm", "--json", "debian:12-base"]);
    assert_eq!((cold.code, cold.json()["template_bytes"].as_u64()), (Some(0), Some(0)), "{cold:?}");
    let pulled = world.pyro(&["env", "pull", "--json", "debian:12-base"]);
    assert!(pulled.err.contains("[pull] phase=warm environment=debian:12-base"), "{pulled:?}");
    let shown = world.pyro(&["env", "inspect", "--json", "debian:12-base"]).json();
    assert_eq!(shown, pulled.json());
    assert!(shown["template_bytes"].as_u64().unwrap() > 10 << 20, "{shown}");
    let template = &shown["templates"][0];
    assert_eq!(
        (&template["kind"], &template["vcpu_count"], &template["mem_mib"]),
        (&"fresh".into(), &1.into(), &1024.into())
    );
    let shown_to_people = world.pyro(&["env", "inspect", "debian:12-base"]).stdout();
    assert!(shown_to_people.contains(&format!("fresh:1x1024MiB:{}/", backend.name())), "{shown_to_people}");
    // The first run of the default shape is restored already.
    let run = world.pyro(&["run", "--json", "debian:12-base", "--", "true"]).json();
    assert_eq!(run["start"], "restored");
    let pruned = world.pyro(&["env", "prune", "--json"]).json();
    assert_eq!(pruned["deleted_template_dirs"].as_array().unwrap().len(), 1, "{pruned}");
    assert_eq!(pruned["freed_template_bytes"], shown["template_bytes"]);
    assert_eq!(templates(&world), Vec::<PathBuf>::new());
    assert_eq!(world.pyro(&JSON).json()["start"], "booted");
}

/// Removing and making templates at the same time costs some starts a boot, and nothing else.
fn pruning_beside_starts_breaks_neither(backend: Preference) {
    let world = world(backend);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let said = world.pyro(&JSON);
                        assert_eq!(
                            (said.code, &said.json()["stdout"]),
                            (Some(0), &"hello\n".into()),
                            "{said:?}"
                        );
                        assert!(!said.err.contains("template=none"), "{said:?}");
                    }
                })
            })
            .collect();
        while runs.iter().any(|run| !run.is_finished()) {
            let pruned = world.pyro(&["env", "prune"]);
            assert_eq!(pruned.code, Some(0), "{pruned:?}");
            // A pace and no wait: between two removals some starts find a template.
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
}

/// Whether the draft of a template has this file, with at least so many bytes of data.
fn drafted(world: &World, file: &str, least: u64) -> bool {
    let below =
        |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let keys = below(world.home.path().join("environments/.templates"));
    let files = keys.flat_map(below).map(|draft| draft.join("out").join(file));
    files.filter_map(|path| path.metadata().ok()).any(|stat| stat.blocks() * 512 >= least)
}

/// Moment of a first run: its name, and whether it has come in the run of this process.
type Moment = (&'static str, fn(&World, u32) -> bool);

const MOMENTS: [Moment; 7] = [
    ("a VMM runs", |_, pyro| !children(pyro).is_empty()),
    ("a draft is begun", |world, _| drafted(world, "", 0)),
    ("state is written", |world, _| drafted(world, "state", 1)),
    ("memory is begun", |world, _| drafted(world, "memory", 1)),
    ("much of memory is written", |world, _| drafted(world, "memory", 32 << 20)),
    ("a disk is begun", |world, _| drafted(world, "disk.ext4", 0)),
    ("a template is there", |world, _| !templates(world).is_empty()),
];

/// Ctrl-C while the first run makes its template, at moments spread over all of that: nothing half-made stays.
fn an_interrupted_first_run_leaves_no_half_of_a_template(backend: Preference) {
    let world = world(backend);
    for (moment, has_come) in MOMENTS {
        let child = world.start(&JSON);
        // Between two looks it may have ended by itself.
        eventually(moment, || has_come(&world, child.id()) || !running(child.id()));
        let _ = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        let said = finish(child);
        assert!(matches!(said.code, Some(0 | 130)), "{said:?}");
        let keys = std::fs::read_dir(world.home.path().join("environments/.templates")).into_iter().flatten();
        for key in keys.flatten() {
            let left: Vec<_> =
                std::fs::read_dir(key.path()).unwrap().flatten().map(|e| e.file_name()).collect();
            let whole = |name: &std::ffi::OsString| name == ".lock" || name == "template";
            assert!(left.iter().all(whole), "when {moment}: {left:?}");
        }
        assert!(world.pyro(&["env", "prune"]).code == Some(0));
    }
}
