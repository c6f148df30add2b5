//! Commands: output, ends, errors, environment, arguments.

use crate::support::*;
use futures::io::AsyncWriteExt;
use pyro_proto::frame::{self, Channel, MAX_REQUEST};
use pyro_proto::message::*;

#[test]
fn output_is_separate_and_complete() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let outcome = client.sh("printf out; printf err >&2; exit 3").await;
        assert_eq!((outcome.text(), &outcome.stderr[..], outcome.code()), ("out", &b"err"[..], 3));
        let exit = outcome.exit();
        assert!(!exit.timed_out && !exit.left_running);
        let outcome = client.sh("head -c 5000000 /dev/zero | tr '\\0' x; head -c 700000 /dev/zero >&2").await;
        assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (5_000_000, 700_000));
        assert!(outcome.stdout.iter().all(|byte| *byte == b'x'));
    });
}

#[test]
fn ends_are_told_apart() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        assert_eq!(client.run(&["true"]).await.code(), 0);
        assert_eq!(client.sh("exit 255").await.code(), 255);
        for (line, signal) in [("kill -9 $$", 9), ("kill -TERM $$", 15), ("kill -PIPE $$", 13)] {
            assert_eq!(client.sh(line).await.exit().status, ExitStatus::Signal(signal), "{line}");
        }
    });
}

#[test]
fn what_cannot_be_executed_says_why() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("plain"), "x").unwrap();
        std::fs::write(path("script"), "echo \"script $1\"\n").unwrap();
        std::fs::write(path("orphan"), "#!/no/such/interpreter\n").unwrap();
        for name in ["script", "orphan"] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(path(name), mode).unwrap();
        }
        for (program, kind) in [
            ("no-such-program", FailureKind::NotFound),
            ("/no/such/program", FailureKind::NotFound),
            (&path("orphan"), FailureKind::NotFound),
            ("/etc", FailureKind::NotExecutable),
            (&path("plain"), FailureKind::NotExecutable),
        ] {
            let outcome = client.run(&[program]).await;
            assert_eq!((outcome.failure().kind, &outcome.failure().stage[..]), (kind, "exec"), "{program}");
            assert!(outcome.failure().errno.is_some() && outcome.failure().message.contains(program));
        }
        // As execvp and env do it, a text without #! is a script of /bin/sh.
        assert_eq!(client.run(&[&path("script"), "one"]).await.text(), "script one\n");
        // A file that may not be executed does not hide one that may, further on the path; alone, it is the reason.
        std::fs::create_dir(path("later")).unwrap();
        std::fs::copy(path("script"), path("later/plain")).unwrap();
        let mut request = exec(&["plain", "two"]);
        request.env =
            vec![("PATH".into(), format!("{}:{}", folder.path().display(), path("later")).as_str().into())];
        assert_eq!(client.exec(request.clone()).await.finish().await.text(), "script two\n");
        request.env = vec![("PATH".into(), folder.path().to_str().unwrap().into())];
        assert_eq!(client.exec(request).await.finish().await.failure().kind, FailureKind::NotExecutable);
    });
}

#[test]
fn directories_and_users() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let mut request = exec(&["pwd"]);
        request.cwd = Some("/usr".into());
        assert_eq!(client.exec(request.clone()).await.finish().await.text(), "/usr\n");
        for bad in ["/no/such/directory", "/etc/passwd", ""] {
            request.cwd = Some(bad.into());
            let outcome = client.exec(request.clone()).await.finish().await;
            assert_eq!(outcome.failure().kind, FailureKind::BadDirectory, "{bad}");
        }
        for bad in ["no-such-user", "root:no-such-group", ""] {
            let mut request = exec(&["id"]);
            request.user = Some(bad.to_owned());
            let outcome = client.exec(request).await.finish().await;
            assert_eq!(outcome.failure().kind, FailureKind::NoSuchUser, "{bad}");
        }
    });
}

#[test]
fn another_user_is_really_another() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        if !rustix::process::getuid().is_root() {
            // An agent that is not root can only run commands as itself, and says so.
            let mut request = exec(&["id"]);
            request.user = Some("0:0".to_owned());
            assert_eq!(client.exec(request).await.finish().await.failure().stage, "user");
            return;
        }
        let mut request = sh("id -u; id -g; id -G; echo $USER $HOME; grep CapEff /proc/self/status");
        request.user = Some("65534:7".to_owned());
        request.cwd = Some("/".into());
        let outcome = client.exec(request).await.finish().await;
        let lines: Vec<&str> = outcome.text().lines().collect();
        assert_eq!(lines[..3], ["65534", "7", "7"]);
        assert!(lines[3].starts_with("nobody "), "{lines:?}");
        assert!(lines[4].ends_with("0000000000000000"), "{lines:?}");
    });
}

#[test]
fn the_environment_is_clean() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let mut request = exec(&["env"]);
        request.env =
            vec![("A".into(), "1".into()), ("LANG".into(), "C".into()), ("A".into(), "b=c\nd".into())];
        let outcome = client.exec(request).await.finish().await;
        assert!(outcome.text().contains("A=b=c\nd\n") && !outcome.text().contains("A=1"));
        let mut names: Vec<&str> =
            outcome.text().lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        names.sort_unstable();
        assert_eq!(names, ["A", "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"]);
        // Descriptors, signals and session are clean as well.
        let outcome = client.sh("ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/self/status; ps -o sid= -p $$; echo $$").await;
        let lines: Vec<&str> = outcome.text().lines().map(str::trim).collect();
        // 0, 1, 2 and the directory itself.
        assert_eq!(lines[0], "4");
        assert!(
            lines[1].ends_with("0000000000000000") && lines[2].ends_with("0000000000000000"),
            "{lines:?}"
        );
        assert_eq!(lines[3], lines[4]);
    });
}

#[test]
fn arguments_arrive_as_they_are() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let long = "y".repeat(100_000);
        for word in ["a b", "line\nline", "\"'`$HOME\\", "", "*", "ä", &long] {
            let outcome = client.run(&["printf", "%s", word]).await;
            assert_eq!(outcome.text(), word);
        }
        let mut request = exec(&["printf", "%s"]);
        request.argv.push(b"\xff\xfe\x80".into());
        assert_eq!(client.exec(request).await.finish().await.stdout, b"\xff\xfe\x80");
        // Linux takes 128 KiB in one argument and a quarter of the stack in all.
        let too_long = "z".repeat(140_000);
        assert_eq!(client.run(&["printf", &too_long]).await.failure().kind, FailureKind::TooLong);
        let mut request = exec(&["true"]);
        request.argv.extend((0..30).map(|_| Bytes::from(&long)));
        assert_eq!(client.exec(request).await.finish().await.failure().kind, FailureKind::TooLong);
        let mut request = exec(&["/bin/sh", "-c", "echo $#", "sh"]);
        request.argv.extend((0..10).map(|_| Bytes::from(&long)));
        assert_eq!(client.exec(request).await.finish().await.text(), "10\n");
    });
}

#[test]
fn bad_requests_are_refused_and_the_session_goes_on() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        assert_eq!(client.run(&[]).await.failure().kind, FailureKind::BadRequest);
        assert_eq!(client.run(&["printf", "a\0b"]).await.failure().kind, FailureKind::BadRequest);
        // A message of no known kind, a message that ends too early, bytes instead of a message, one too long.
        let oversized = frame::header(Channel::Message, MAX_REQUEST + 1);
        for bytes in [
            &[&frame::header(Channel::Message, 1)[..], &[99]].concat()[..],
            &[&frame::header(Channel::Message, 1)[..], &[1]].concat(),
            &[&frame::header(Channel::Stdin, 1)[..], &[1]].concat(),
            &oversized,
            &[0, 0, 0, 77],
        ] {
            let mut stream = client.open().await;
            stream.write_all(bytes).await.unwrap();
            match reply(stream).await {
                Reply::Failed(failure) => assert_eq!(failure.kind, FailureKind::BadRequest, "{bytes:?}"),
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
        // The same inside a call ends the call and its command.
        for bytes in [
            &[&frame::header(Channel::Message, 1)[..], &[99]].concat()[..],
            &[&frame::header(Channel::Stdout, 1)[..], &[1]].concat(),
            &frame::header(Channel::Stdin, frame::MAX_CHUNK + 1),
            &frame::encode(&ExecInput::Signal(0)).unwrap(),
            &frame::encode(&ExecInput::Signal(-9)).unwrap(),
            &frame::encode(&ExecInput::Signal(1000)).unwrap(),
        ] {
            let mut call = client.exec(exec(&["sleep", "1000"])).await;
            call.started().await;
            call.write.write_all(bytes).await.unwrap();
            assert_eq!(call.finish().await.failure().kind, FailureKind::BadRequest, "{bytes:?}");
        }
        agent.is_childless().await;
        assert_eq!(client.call(&Request::Ping).await, Reply::Done);
    });
}

#[test]
fn identity_is_checked_and_harmless_outside_a_guest() {
    run(async {
        let agent = Agent::on_socket();
        let client = agent.client().await;
        let before = std::fs::read("/etc/hostname").ok();
        let mut identity = GuestIdentity {
            unix_time_ns: 1,
            entropy: [1; 32],
            hostname: "elsewhere".to_owned(),
            machine_id: [2; 16],
            generation: [3; 16],
            boot_id: Some([4; 16]),
            oneshot: true,
        };
        match client.call(&Request::Identify(identity.clone())).await {
            Reply::Identified(info) => {
                assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
                assert!(!info.root_ready && info.root_problem.is_none() && !info.kernel.is_empty());
            }
            other => panic!("{other:?}"),
        }
        assert_ne!(client.run(&["uname", "-n"]).await.text(), "elsewhere\n");
        assert_eq!(std::fs::read("/etc/hostname").ok(), before);
        match client.call(&Request::Clock(-1_000_000_000_000_000_000)).await {
            Reply::Clock(now) => assert!(now > 1_700_000_000_000_000_000, "{now}"),
            other => panic!("{other:?}"),
        }
        assert!(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() > 1_000_000_000);
        match client.call(&Request::Assemble).await {
            Reply::Failed(failure) => assert_eq!(failure.kind, FailureKind::BadRequest),
            other => panic!("{other:?}"),
        }
        identity.hostname = "no good".to_owned();
        match client.call(&Request::Identify(identity)).await {
            Reply::Failed(failure) => assert_eq!(failure.kind, FailureKind::BadRequest),
            other => panic!("{other:?}"),
        }
    });
}
