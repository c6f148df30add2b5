//! The contract as data: every flag and positional of the commands that this version has, and how wrong usage ends.

use crate::support::World;
use serde_json::Value;

#[test]
fn every_flag_of_the_contract_is_there() {
    let contract: Vec<Value> = serde_json::from_str(include_str!("data/cli.json")).unwrap();
    let world = World::bare();
    let mut looked_at = 0;
    for command in contract {
        let name = command["command"].as_str().unwrap();
        looked_at += 1;
        let mut args: Vec<&str> = name.split_whitespace().skip(1).collect();
        args.push("--help");
        let help = world.pyro(&args);
        assert_eq!(help.code, Some(0), "{name}");
        let text = help.stdout();
        for option in command["options"].as_array().unwrap() {
            for flag in option["flags"].as_array().unwrap() {
                let flag = flag.as_str().unwrap();
                assert!(text.contains(flag), "{name} lacks {flag}:\n{text}");
            }
            let default = &option["default"];
            let shown = match default {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            };
            if let Some(shown) = shown {
                assert!(text.contains(&shown), "{name} does not show the default {shown}:\n{text}");
            }
        }
    }
    assert_eq!(looked_at, 53, "the contract's commands");
}

#[test]
fn wrong_usage_exits_2() {
    let world = World::bare();
    for args in [
        &["run"][..],
        &["run", "debian:12"],
        &["run", "debian:12", "--"],
        &["run", "debian:12", "--", ""],
        &["run", "debian:12", "--", "  "],
        &["run", "--vcpu-count", "many", "debian:12", "--", "true"],
        &["run", "--mem-mib", "-1", "debian:12", "--", "true"],
        &["run", "--nonsense", "debian:12", "--", "true"],
        &["run", "-t", "--json", "debian:12", "--", "true"],
        &["env", "pull"],
        &["bench", "--runs", "0"],
        &["bench", "--parallel", "0"],
        &["bench", "--only", "nonsense"],
        &["nonsense"],
        &[],
    ] {
        let said = world.pyro(args);
        assert_eq!(said.code, Some(2), "{args:?} {said:?}");
        assert!(!said.err.is_empty() && said.out.is_empty(), "{args:?} {said:?}");
    }
}

#[test]
fn the_version_is_told() {
    let said = World::bare().pyro(&["--version"]);
    assert_eq!(said.stdout(), format!("pyro {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_not_there_yet_is_one_line() {
    let mut world = World::bare();
    world.set("PYRO_RUNTIME_BUNDLE_DIR", "/nonexistent");
    for args in [
        &["run", "--network", "debian:12", "--", "true"][..],
        &["demo", "--network"],
        &["demo", "ollama"],
        &["run", "--backend", "nonsense", "debian:12", "--", "true"],
        &["bench", "--backend", "nonsense"],
        &["bench", "--output", "/nonexistent/file"],
    ] {
        let said = world.pyro(args);
        assert_eq!(said.code, Some(1), "{args:?} {said:?}");
        let errors: Vec<_> = said.err.lines().filter(|line| line.starts_with("[error]")).collect();
        assert_eq!(errors.len(), 1, "{args:?} {said:?}");
        assert!(said.out.is_empty(), "{args:?} {said:?}");
    }
}

#[test]
fn bad_requests_say_the_bounds() {
    let world = World::bare();
    for (args, part) in [
        (&["--vcpu-count", "0"][..], "vcpu_count is 0: it must be 1 to 8"),
        (&["--vcpu-count", "9"], "vcpu_count is 9: it must be 1 to 8"),
        (&["--mem-mib", "255"], "mem_mib is 255: it must be 256 to 32768"),
        (&["--mem-mib", "32769"], "mem_mib is 32769: it must be 256 to 32768"),
        (&["--ttl-seconds", "5"], "ttl_seconds is 5: it must be 0 (none) or 60 to 86400"),
        (&["--timeout-seconds", "0"], "timeout_seconds is 0: it must be 1 to 86400"),
    ] {
        let mut line = vec!["run"];
        line.extend(args);
        line.extend(["debian:12", "--", "true"]);
        let said = world.pyro(&line);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains(part), "{part}: {said:?}");
        line.insert(1, "--json");
        let said = world.pyro(&line);
        let object = said.json();
        assert_eq!((said.code, &object["ok"]), (Some(1), &Value::Bool(false)));
        assert!(object["error"].as_str().unwrap().contains(part), "{object}");
    }
}

#[test]
fn an_unknown_environment_names_the_nearest() {
    let world = World::bare();
    for args in [
        &["run", "debain:12", "--", "true"][..],
        &["env", "inspect", "debain:12"],
        &["env", "pull", "debain:12"],
    ] {
        let said = world.pyro(args);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("debain:12") && said.err.contains("debian:12"), "{said:?}");
    }
}

#[test]
fn a_missing_runtime_says_how_to_make_it() {
    let mut world = World::bare();
    world.set("PYRO_RUNTIME_BUNDLE_DIR", "/nonexistent");
    let said = world.pyro(&["doctor", "--json"]);
    assert_eq!(said.code, Some(1));
    let object = said.json();
    assert_eq!(object["runtime_ok"], Value::Bool(false));
    assert!(object["issues"][0].as_str().unwrap().contains("/nonexistent"), "{object}");
    let said = world.pyro(&["doctor"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stdout().contains("FAIL  runtime"), "{said:?}");
}

#[test]
fn doctor_knows_one_platform() {
    let said = World::bare().pyro(&["doctor", "--platform", "plan9-mips"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("plan9-mips") && said.err.contains("linux-x86_64"), "{said:?}");
}
