//! Many files of a workspace: what differs, beside what git says of the same tree, and a tree on its way in, beside an
//! archive that is unpacked in the same guest.

use std::fs;
use std::path::{Path, PathBuf};

use super::workspace::{Kept, Place, TTL, split};
use super::{Bench, Measure, Row, Series};

const MEASURE: Measure = Measure::WorkspaceFiles;

/// Files in one directory.
const PER_DIRECTORY: usize = 100;

/// Git, with what it knows outside of the workspace, where it differs from nothing.
const GIT: &str = "GIT_DIR=/root/bench.git GIT_WORK_TREE=/workspace git -c safe.directory=*";

/// Eight files are changed, one goes and one comes: of these directories.
const CHANGED: usize = 10;

pub(super) async fn figures(bench: &mut Bench<'_>) -> Vec<Row> {
    let (rounds, few, many) = bench.plan.amount.files();
    let place = Place::usual(bench);
    let [mut diff, mut status, mut push, mut tar] = [const { Series::new() }; 4];
    match repository(bench, many).await {
        Err(why) => bench.keep(MEASURE, &mut diff, Err(why)),
        Ok((kept, has_git)) => {
            for _ in 0..rounds {
                let sample = differences(&place, &kept).await;
                bench.keep(MEASURE, &mut diff, sample);
                if has_git {
                    let sample = kept.exec(&[&format!("{GIT} status --porcelain")]).await;
                    bench.keep(MEASURE, &mut status, sample.map(|(_, guest)| guest));
                }
            }
        }
    }
    match archive(bench, few).await {
        Err(why) => bench.keep(MEASURE, &mut push, Err(why)),
        Ok((kept, tree)) => {
            for round in 0..rounds {
                let (ours, by_hand) = split(trees(&place, &kept, &tree, round).await);
                bench.keep(MEASURE, &mut push, ours);
                bench.keep(MEASURE, &mut tar, by_hand);
            }
        }
    }
    vec![
        Row::new(
            "workspace_diff",
            "ms",
            format!("pyro workspace diff, exec to exit: {CHANGED} changes among {many} files"),
            diff,
        )
        .against("`git status` of the same tree in its guest, its index up to date", status),
        Row::new(
            "workspace_push",
            "ms",
            format!("pyro workspace sync push of {few} small files, exec to exit: they are on its disk then"),
            push,
        )
        .against("`tar -x` of the same and `sync` in its guest", tar),
    ]
}

/// Small files of some lines each, in directories of a hundred.
fn make_tree(root: &Path, files: usize) -> std::io::Result<()> {
    for number in 0..files {
        let dir = root.join(format!("{:03}", number / PER_DIRECTORY));
        if number % PER_DIRECTORY == 0 {
            fs::create_dir_all(&dir)?;
        }
        let line = format!("line of file {number}\n");
        fs::write(dir.join(format!("{:02}", number % PER_DIRECTORY)), line.repeat(1 + number % 40))?;
    }
    Ok(())
}

async fn tree(bench: &Bench<'_>, name: &str, files: usize) -> Result<PathBuf, String> {
    let root = bench.scratch.path().join(name);
    let making = root.clone();
    let made = tokio::task::spawn_blocking(move || make_tree(&making, files)).await;
    made.map_err(|error| error.to_string())?.map_err(|error| format!("{}: {error}", root.display()))?;
    Ok(root)
}

/// A workspace that begins with `files` files and has some changes; whether there is a git that knows what it was.
async fn repository(bench: &Bench<'_>, files: usize) -> Result<(Kept, bool), String> {
    let root = tree(bench, "many", files).await?;
    let (kept, _) = Place::usual(bench).create_with(TTL, &["--seed-path", &root.to_string_lossy()]).await?;
    // Ignored where it fails: nothing else needs the space.
    let _ = fs::remove_dir_all(&root);
    let has_git = kept.exec(&["command -v git"]).await.is_ok();
    if has_git {
        // The threshold makes one pack of them instead of as many objects.
        let line = format!(
            "{GIT} init -q && {GIT} -c core.bigFileThreshold=1 -c core.compression=0 add -A && \
             {GIT} -c user.name=bench -c user.email=bench commit -q -m bench && sync"
        );
        kept.exec(&[&line]).await?;
    }
    let line = "for d in 000 001 002 003 004 005 006 007; do [ ! -d $d ] || echo changed >> $d/07; done; \
                rm 000/08; echo new > 000/new";
    kept.exec(&[line]).await?;
    if has_git {
        kept.exec(&[&format!("{GIT} status --porcelain")]).await?;
    }
    Ok((kept, has_git))
}

async fn differences(place: &Place, kept: &Kept) -> Result<f64, String> {
    let (said, took) = place.workspace(&["diff", &kept.id, "--json"]).await?;
    let said: serde_json::Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
    match said["summary"]["total"].as_u64() {
        Some(1..) => Ok(took),
        _ => Err(format!("it does not say what differs: {}", said["summary"])),
    }
}

/// A workspace with an archive of a tree of so many files; and that tree.
async fn archive(bench: &Bench<'_>, files: usize) -> Result<(Kept, PathBuf), String> {
    let root = tree(bench, "few", files).await?;
    let (kept, _) = Place::usual(bench).create_with(TTL, &["--seed-path", &root.to_string_lossy()]).await?;
    kept.exec(&["tar -cf /root/bench.tar . && sync"]).await?;
    Ok((kept, root))
}

/// The tree pushed into a new directory, and its archive unpacked into another one.
async fn trees(place: &Place, kept: &Kept, root: &Path, round: usize) -> Result<(f64, f64), String> {
    let dest = format!("pushed{round}");
    let (_, ours) =
        place.workspace(&["sync", "push", &kept.id, &root.to_string_lossy(), "--dest", &dest]).await?;
    let line = format!("mkdir tar{round} && tar -xf /root/bench.tar -C tar{round} && sync");
    let (_, by_hand) = kept.exec(&[&line]).await?;
    Ok((ours, by_hand))
}
