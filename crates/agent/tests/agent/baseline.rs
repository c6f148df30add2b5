//! The baseline, and what differs from it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use crate::support::*;
use pyro_proto::message::*;

const TAKE: Request = Request::BaselineTake { name: None, keep: None };

async fn scan(client: &Client) -> Vec<(String, FileChangeKind)> {
    let (_, replies) = client.ask(&Request::DiffScan { baseline: None }, b"").await;
    assert!(matches!(replies.last(), Some(Reply::Scanned { .. })), "{replies:?}");
    let mut found = Vec::new();
    for reply in replies {
        if let Reply::Changes(changes) = reply {
            found.extend(changes.into_iter().map(|c| (String::from_utf8(c.path.0).unwrap(), c.kind)));
        }
    }
    found
}

/// Waits until files written just now are no longer racy for the baseline. Only time makes them so, and no event tells.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(80)).await;
}

#[test]
fn every_kind_of_difference_is_found() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        assert_eq!(client.refused(&Request::DiffScan { baseline: None }, b"").await, FailureKind::NotFound);
        for dir in ["d", "d/e", "d/e/f", "gone/in", "same"] {
            fs::create_dir_all(agent.workspace(dir)).unwrap();
        }
        for file in ["d/e/f/x", "d-1", "gone/in/y", "mode", "same/s", "size", "touched", "type", "z"] {
            fs::write(agent.workspace(file), "12345").unwrap();
        }
        symlink("a", agent.workspace("link")).unwrap();
        symlink("a", agent.workspace("link-same")).unwrap();
        settle().await;
        assert_eq!(client.last(&TAKE, b"").await, Reply::Baseline { entries: 17 });
        assert_eq!(scan(&client).await, []);
        fs::write(agent.workspace("touched"), "54321").unwrap();
        fs::write(agent.workspace("size"), "123456").unwrap();
        fs::set_permissions(agent.workspace("mode"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(agent.workspace("d/e"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::remove_file(agent.workspace("type")).unwrap();
        fs::create_dir(agent.workspace("type")).unwrap();
        fs::write(agent.workspace("type/below"), "").unwrap();
        fs::remove_file(agent.workspace("link")).unwrap();
        symlink("b", agent.workspace("link")).unwrap();
        fs::remove_dir_all(agent.workspace("gone")).unwrap();
        fs::remove_file(agent.workspace("z")).unwrap();
        fs::create_dir(agent.workspace("d/e/new")).unwrap();
        fs::write(agent.workspace("d/e/new/n"), "").unwrap();
        use FileChangeKind::*;
        let wanted = [
            ("d/e", Mode),
            ("d/e/new", Added),
            ("d/e/new/n", Added),
            ("gone", Deleted),
            ("gone/in", Deleted),
            ("gone/in/y", Deleted),
            ("link", Modified),
            ("mode", Touched),
            ("size", Modified),
            ("touched", Touched),
            ("type", Type),
            ("type/below", Added),
            ("z", Deleted),
        ];
        assert_eq!(scan(&client).await, wanted.map(|(path, kind)| (path.to_owned(), kind)));
        // Again and again the same, by another session too; a new baseline makes an end of it.
        drop(client);
        let client = agent.client().await;
        assert_eq!(scan(&client).await.len(), wanted.len());
        settle().await;
        client.last(&TAKE, b"").await;
        assert_eq!(scan(&client).await, []);
        // Nothing of ours is in the workspace.
        fs::remove_dir_all(agent.workspace("")).unwrap();
        fs::create_dir(agent.workspace("")).unwrap();
        assert!(scan(&client).await.iter().all(|(_, kind)| *kind == Deleted));
    });
}

#[test]
fn a_change_in_the_same_instant_is_not_missed() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        for round in 0..20 {
            let file = agent.workspace(&format!("f{round}"));
            fs::write(&file, "before").unwrap();
            client.last(&TAKE, b"").await;
            fs::write(&file, "behind").unwrap();
            let found = scan(&client).await;
            assert!(found.contains(&(format!("f{round}"), FileChangeKind::Touched)), "{round}: {found:?}");
        }
    });
}

#[test]
fn a_damaged_baseline_is_an_error() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        fs::write(agent.workspace("file"), "").unwrap();
        client.last(&TAKE, b"").await;
        let path = agent.disk(".pyro/baseline");
        let whole = fs::read(&path).unwrap();
        for damaged in [&b""[..], b"pyroBASE\x02\0\0\0", &whole[..whole.len() - 1]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(
                client.refused(&Request::DiffScan { baseline: None }, b"").await,
                FailureKind::Internal
            );
        }
    });
}

#[test]
fn a_baseline_with_a_name_lies_beside_the_other() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        let take = |name: &str, keep: Option<&str>| Request::BaselineTake {
            name: Some(name.to_owned()),
            keep: keep.map(str::to_owned),
        };
        let compare = |name: &str| Request::DiffScan { baseline: Some(name.to_owned()) };
        client.last(&TAKE, b"").await;
        fs::write(agent.workspace("new"), "1").unwrap();
        settle().await;
        client.last(&take("fork-1", None), b"").await;
        assert_eq!(scan(&client).await, [("new".to_owned(), FileChangeKind::Added)]);
        assert_eq!(client.last(&compare("fork-1"), b"").await, Reply::Scanned { entries: 1 });
        // Another baseline is kept, by its name.
        client.last(&take("fork-2", Some("fork-1")), b"").await;
        assert_eq!(client.refused(&Request::DiffScan { baseline: None }, b"").await, FailureKind::NotFound);
        assert_eq!(client.last(&compare("fork-1"), b"").await, Reply::Scanned { entries: 1 });
        client.last(&TAKE, b"").await;
        for gone in ["fork-1", "fork-2"] {
            assert_eq!(client.refused(&compare(gone), b"").await, FailureKind::NotFound);
        }
        for bad in ["", "../baseline", "a/b", "a\0", "new.", &"x".repeat(65)] {
            assert_eq!(client.refused(&compare(bad), b"").await, FailureKind::BadRequest, "{bad:?}");
            assert_eq!(client.refused(&take(bad, None), b"").await, FailureKind::BadRequest, "{bad:?}");
            assert_eq!(client.refused(&take("a", Some(bad)), b"").await, FailureKind::BadRequest, "{bad:?}");
        }
    });
}
