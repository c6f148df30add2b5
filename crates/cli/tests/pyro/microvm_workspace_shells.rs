//! Shells of a workspace: typed into, read from cursors, joined by a person, over with their guest.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::room::{Room, signal};
use crate::support::{Said, eventually, finish, running};

fn open(room: &Room) -> String {
    room.ok(&["shell", "open", "w", "--id-only"]).stdout().trim().to_owned()
}

fn write(room: &Room, shell: &str, line: &str) {
    room.ok(&["shell", "write", "w", shell, "--input", line]);
}

fn read(room: &Room, shell: &str, args: &[&str]) -> Value {
    room.json(&[&["shell", "read", "w", shell], args].concat())
}

fn text(read: &Value) -> String {
    read["output"].as_str().unwrap().to_owned()
}

/// All that it wrote, as a person reads it.
fn plain(room: &Room, shell: &str) -> String {
    text(&read(room, shell, &["--plain", "--max-chars", "1000000"]))
}

fn says(room: &Room, shell: &str, what: &str) {
    eventually(what, || {
        // A poll interval, longer than that of others: each look is a process of its own.
        std::thread::sleep(Duration::from_millis(50));
        plain(room, shell).contains(what)
    });
}

#[test]
fn a_shell_lives_as_the_contract_has_it_and_ends_with_its_workspace() {
    let room = Room::new();
    room.create("w");
    let opened = room.json(&["shell", "open", "w", "--cwd", "/tmp", "--cols", "100", "--rows", "20"]);
    let keys: Vec<&str> = opened.as_object().unwrap().keys().map(String::as_str).collect();
    for key in ["workspace_id", "cwd", "state", "started_at", "ended_at", "exit_code", "execution_mode"] {
        assert!(keys.contains(&key), "{opened}");
    }
    assert_eq!(
        (&opened["cols"], &opened["rows"], &opened["state"]),
        (&100.into(), &20.into(), &"running".into())
    );
    let shell = opened["shell_id"].as_str().unwrap();
    let written = room.json(&["shell", "write", "w", shell, "--input", "stty size; pwd; echo $((6*7))"]);
    assert_eq!((&written["input_length"], &written["append_newline"]), (&29.into(), &true.into()));
    says(&room, shell, "\n20 100\n/tmp\n42\n");
    // Nobody is connected meanwhile, and it goes on.
    write(&room, shell, "sleep 1000");
    let idle = read(&room, shell, &["--wait-for-idle-ms", "200"]);
    assert_eq!((&idle["wait_for_idle_ms"], &idle["plain"]), (&200.into(), &false.into()));
    // The input comes after what is in the foreground was interrupted.
    eventually("sleep runs", || {
        room.pyro(&["exec", "w", "--", "grep -l sleep /proc/[0-9]*/comm"]).code == Some(0)
    });
    let sent = room.json(&["shell", "signal", "w", shell]);
    assert_eq!(sent["signal"], "INT");
    write(&room, shell, "echo code=$?");
    says(&room, shell, "\ncode=130\n");
    let said = room.pyro(&["shell", "read", "w", "0123456789ab"]);
    assert!(said.code == Some(1) && said.err.contains(shell), "{said:?}");
    let closed = room.json(&["shell", "close", "w", shell]);
    assert!(
        closed["closed"] == true && closed["exit_code"].is_i64() && closed["ended_at"].is_f64(),
        "{closed}"
    );
    assert_eq!(room.pyro(&["shell", "read", "w", shell]).code, Some(1));

    // One ends by itself; one with its guest. Both are read afterwards.
    let (first, second) = (open(&room), open(&room));
    write(&room, &first, "exit 3");
    eventually("it ends", || read(&room, &first, &[])["state"] == "stopped");
    assert_eq!(read(&room, &first, &[])["exit_code"], 3);
    let said = room.pyro(&["shell", "write", "w", &first, "--input", "x"]);
    assert!(said.err.contains("has ended with exit code 3"), "{said:?}");
    write(&room, &second, "echo last-''words");
    says(&room, &second, "\nlast-words\n");
    room.ok(&["stop", "w"]);
    let ended = read(&room, &second, &["--plain"]);
    assert!(text(&ended).contains("\nlast-words\n"), "{ended}");
    assert_eq!((&ended["state"], &ended["stop_reason"]), (&"stopped".into(), &"workspace_stopped".into()));
    // What is over can be put away, whether a keeper lives or not.
    assert_eq!(room.json(&["shell", "close", "w", &first])["exit_code"], 3);
    assert_eq!(room.pyro(&["shell", "read", "w", &first]).code, Some(1));
    let said = room.pyro(&["shell", "open", "w"]);
    assert!(said.code == Some(1) && said.err.contains("pyro workspace start"), "{said:?}");
    room.ok(&["start", "w"]);
    let list = room.json(&["shell", "list", "w"]);
    assert_eq!((&list["count"], &list["running_count"]), (&1.into(), &0.into()));
    // A keeper that is killed leaves nothing that is shown as running.
    let third = open(&room);
    let (keeper, vmm) = room.processes("w");
    signal(keeper, "-KILL");
    eventually("its VM is gone", || !running(vmm));
    let lost = read(&room, &third, &[]);
    assert_eq!((&lost["state"], &lost["stop_reason"]), (&"stopped".into(), &"workspace_ended".into()));
    room.ok(&["shell", "close", "w", &second]);
    room.ok(&["start", "w"]);
    assert_eq!(room.json(&["shell", "list", "w"])["count"], 1);
    assert_eq!(read(&room, &third, &[])["state"], "stopped");
    let fourth = open(&room);
    room.ok(&["reset", "w"]);
    assert_eq!(read(&room, &fourth, &[])["stop_reason"], "workspace_reset");
    room.ok(&["delete", "w"]);
    room.check_empty(&[vmm]);
}

#[test]
fn cursors_neither_lose_nor_repeat_a_byte_and_say_what_is_gone() {
    let room = Room::new();
    room.create("w");
    let shell = open(&room);
    write(
        &room,
        &shell,
        "stty -echo -onlcr; bind 'set enable-bracketed-paste off'; PS1=; echo be''gin; seq 1 20000; echo e''nd",
    );
    says(&room, &shell, "\nend\n");
    // In steps that cut everywhere, and from two readers at different paces.
    for step in ["997", "65536"] {
        let (mut cursor, mut all) = (0, String::new());
        loop {
            let at = cursor.to_string();
            let piece = read(&room, &shell, &["--cursor", &at, "--max-chars", step]);
            assert_eq!(piece["lost_bytes"], 0);
            all += &text(&piece);
            let next = piece["next_cursor"].as_u64().unwrap();
            if next == cursor {
                break;
            }
            assert_eq!(piece["truncated"] == true, text(&piece).chars().count().to_string() == step);
            cursor = next;
        }
        let numbers: Vec<&str> = all.split("begin\n").nth(1).unwrap().lines().take(20_000).collect();
        assert!(numbers.iter().zip(1..).all(|(line, n)| *line == n.to_string()), "{step}");
        assert!(all.ends_with("end\n"));
    }
    // More than is kept: what is gone is told, and the rest is whole.
    write(&room, &shell, "seq 1000000 1400000; echo d''one");
    eventually("all is written", || {
        let last = read(&room, &shell, &["--cursor", "100000000"]);
        let from = last["next_cursor"].as_u64().unwrap().saturating_sub(5).to_string();
        text(&read(&room, &shell, &["--cursor", &from])) == "done\n"
    });
    let first = read(&room, &shell, &["--max-chars", "1000000"]);
    let lost = first["lost_bytes"].as_u64().unwrap();
    assert!(lost > 1_000_000 && first["truncated"] == true, "{lost}");
    let cursor = first["next_cursor"].as_u64().unwrap();
    assert_eq!(cursor, lost + 1_000_000);
    let rest = read(&room, &shell, &["--cursor", &cursor.to_string(), "--max-chars", "1000000"]);
    let kept = text(&first) + &text(&rest);
    assert!(kept.len() >= 1 << 20, "{}", kept.len());
    let numbers: Vec<u64> = kept.lines().skip(1).filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert_eq!(numbers.last(), Some(&1_400_000));
    room.ok(&["delete", "w"]);
    room.check_empty(&[]);
}

#[test]
fn ten_front_ends_at_one_shell_see_the_same() {
    let room = Room::new();
    room.create("w");
    let shell = open(&room);
    write(&room, &shell, "stty -echo; bind 'set enable-bracketed-paste off'; PS1=");
    std::thread::scope(|scope| {
        for me in 0..10 {
            let (room, shell) = (&room, &shell);
            scope.spawn(move || {
                for turn in 0..3 {
                    write(room, shell, &format!("echo '<'{me}.{turn}'>'"));
                    read(room, shell, &["--wait-for-idle-ms", "50"]);
                }
            });
        }
    });
    write(&room, &shell, "echo '<'over'>'");
    says(&room, &shell, "<over>");
    let all = plain(&room, &shell);
    for me in 0..10 {
        // Each line whole, and in the order of who typed it.
        let places = (0..3).map(|turn| all.find(&format!("\n<{me}.{turn}>\n")).unwrap());
        assert!(places.collect::<Vec<_>>().is_sorted(), "{me}: {all}");
    }
    room.ok(&["delete", "w"]);
    room.check_empty(&[]);
}

#[test]
fn shells_and_services_come_back_with_the_memory() {
    let room = Room::new();
    room.create("w");
    let shell = open(&room);
    write(&room, &shell, "X=kept; echo bef''ore");
    says(&room, &shell, "\nbefore\n");
    let count = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done";
    room.ok(&["service", "start", "w", "count", "--", count]);
    room.ok(&["snapshot", "create", "w", "then", "--memory"]);
    // After it, both go, and another comes.
    write(&room, &shell, "X=lost; echo aft''er");
    says(&room, &shell, "\nafter\n");
    room.ok(&["service", "stop", "w", "count"]);
    room.ok(&["shell", "close", "w", &shell]);
    let other = open(&room);
    for _ in 0..2 {
        room.ok(&["reset", "w", "--snapshot", "then"]);
        let service = room.json(&["service", "status", "w", "count"]);
        assert_eq!((&service["state"], &service["ended_at"]), (&"running".into(), &Value::Null));
        assert_eq!(read(&room, &other, &[])["state"], "stopped");
        assert!(plain(&room, &shell).contains("\nbefore\n") && !plain(&room, &shell).contains("after"));
        write(&room, &shell, "echo X-''is-$X");
        says(&room, &shell, "\nX-is-kept\n");
        let counted = || {
            room.json(&["service", "logs", "w", "count", "--all"])["stdout"].as_str().unwrap().lines().count()
        };
        let then = counted();
        eventually("it counts on", || counted() > then);
        let numbers = room.json(&["service", "logs", "w", "count", "--all"]);
        let numbers: Vec<&str> = numbers["stdout"].as_str().unwrap().lines().collect();
        assert!(numbers.iter().zip(1..).all(|(line, n)| *line == n.to_string()), "{numbers:?}");
    }
    assert_eq!(room.json(&["service", "stop", "w", "count"])["state"], "stopped");
    room.ok(&["delete", "w"]);
    room.check_empty(&[]);
}

/// `pyro workspace shell attach` on a terminal of its own, which `script` makes.
struct Person {
    child: std::process::Child,
    keys: std::process::ChildStdin,
    screen: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Person {
    fn attach(room: &Room, args: &[&str]) -> Self {
        let pyro = room.world.command(&[&["workspace", "shell", "attach"], args].concat());
        let words: Vec<_> = std::iter::once(pyro.get_program()).chain(pyro.get_args()).collect();
        let line =
            words.iter().map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ");
        let script = room.world.home.path().join("attach.sh");
        std::fs::write(&script, format!("stty cols 77 rows 11\n{line}\necho \"left $?\"\nstty -a\n"))
            .unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut command = Command::new("script");
        command.args(["-qec", &format!("sh {}", script.display()), "/dev/null"]).env_clear();
        command.envs(pyro.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let keys = child.stdin.take().unwrap();
        let mut out = child.stdout.take().unwrap();
        let screen = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
        let filled = std::sync::Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut buffer) {
                filled.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Self { child, keys, screen }
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn screen(&self) -> String {
        pyro_core::plain::plain(&self.screen.lock().unwrap(), 77, 11)
    }

    fn sees(&self, what: &str) {
        eventually(&format!("{what}: {}", self.screen()), || self.screen().contains(what));
    }

    fn leaves(self) -> Said {
        drop(self.keys);
        finish(self.child)
    }
}

#[test]
fn a_person_joins_lets_go_and_comes_back() {
    let room = Room::new();
    room.create("w");
    let mut person = Person::attach(&room, &["w"]);
    person.sees("Ctrl-] lets go of it");
    let list = room.json(&["shell", "list", "w"]);
    let shell = list["shells"][0]["shell_id"].as_str().unwrap().to_owned();
    person.types("stty size\r");
    person.sees("\n11 77\n");
    // Beside him another writes and reads, and Ctrl-C is the guest's.
    write(&room, &shell, "echo by-''agent; sleep 1000");
    person.sees("\nby-agent\n");
    says(&room, &shell, "\n11 77\n");
    person.types("\x03");
    person.types("echo code=$?\r");
    person.sees("\ncode=130\n");
    person.types("\x1d");
    person.sees("which goes on");
    person.sees("left 0");
    // His terminal is as it was.
    person.sees(" icanon ");
    assert!(person.leaves().code == Some(0));
    assert_eq!(room.json(&["shell", "list", "w"])["running_count"], 1);

    let mut person = Person::attach(&room, &["w", &shell]);
    // What was there when he comes back.
    person.sees("\ncode=130\n");
    person.types("exit 5\r");
    person.sees("left 5");
    person.leaves();
    let said = room.pyro(&["shell", "attach", "w", &shell]);
    assert!(said.code == Some(1) && said.err.contains("needs a terminal"), "{said:?}");
    let person = Person::attach(&room, &["w", &shell]);
    person.sees("has ended with exit code 5");
    person.sees("left 1");
    person.leaves();
    room.ok(&["delete", "w"]);
    room.check_empty(&[]);
}
