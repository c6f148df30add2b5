//! Workspaces where copies share what they have in common: on an XFS in a file, mounted for this alone.
//!
//! It is mounted in a mount namespace of its own, which a process holds that ends with us: nobody else sees it, and it is
//! unmounted when the last workspace on it is gone.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::workspace::{Kept, Place, TTL, WRITTEN_MIB, snapshot_and_sync, split};
use super::{Bench, Measure, Row, Series};

/// Size of the file system, sparse: a few times what is written to it.
const BYTES: u64 = 4 << 30;
const ROWS: [(&str, &str); 2] = [
    ("reflink_snapshot", "pyro workspace snapshot create on XFS, of a workspace that wrote"),
    ("reflink_reset", "pyro workspace reset --snapshot on XFS, of a workspace that wrote"),
];
/// Makes the file a file system, mounts it, and holds it until the input ends.
const HOLD: &str =
    "mkfs.xfs -q -m reflink=1 \"$1\" && mount -o loop \"$1\" \"$2\" && echo mounted && read line";

/// The mounted file system. Ends with this when nothing on it is in use any more.
struct Mounted {
    holder: Child,
    dir: PathBuf,
}

impl Mounted {
    async fn new(bench: &Bench<'_>) -> Result<Self, String> {
        let said = |error: std::io::Error| format!("a file for a file system: {error}");
        let (image, dir) = (bench.scratch.path().join("xfs"), bench.scratch.path().join("mounted"));
        std::fs::File::create_new(&image).and_then(|file| file.set_len(BYTES)).map_err(said)?;
        std::fs::create_dir(&dir).map_err(said)?;
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "--", "sh", "-c", HOLD, "sh"]);
        unshare.arg(&image).arg(&dir).kill_on_drop(true);
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = unshare.spawn().map_err(|error| format!("unshare: {error}"))?;
        let (stdout, stderr) = holder.stdout.take().zip(holder.stderr.take()).ok_or("it has no pipes")?;
        if !matches!(BufReader::new(stdout).lines().next_line().await, Ok(Some(line)) if line == "mounted") {
            let mut why = String::new();
            let _ = stderr.take(4096).read_to_string(&mut why).await;
            return Err(format!("no XFS can be made and mounted here: {}", why.trim()));
        }
        Ok(Self { holder, dir })
    }

    /// Workspaces on it.
    fn place(&self, bench: &Bench<'_>) -> Result<Place, String> {
        let pid = self.holder.id().ok_or("what holds the file system ended")?;
        let enter = ["nsenter".to_owned(), format!("--mount=/proc/{pid}/ns/mnt"), "--".to_owned()];
        Ok(Place::usual(bench).elsewhere(self.dir.join("workspaces"), enter.into()))
    }
}

pub(super) async fn figures(bench: &mut Bench<'_>) -> Vec<Row> {
    let mounted = match Mounted::new(bench).await {
        Ok(mounted) => mounted,
        Err(why) => {
            return ROWS
                .map(|(name, what)| {
                    Row::pending(name, "ms", format!("{what} {WRITTEN_MIB} MiB"), why.clone())
                })
                .into();
        }
    };
    let [mut snapshot, mut synced, mut reset, mut started] = [const { Series::new() }; 4];
    for _ in 0..bench.plan.amount.runs {
        let kept = match mounted.place(bench) {
            Ok(place) => place.create(TTL).await.map(|(kept, _)| kept),
            Err(why) => Err(why),
        };
        let (copies, resets) = match &kept {
            Ok(kept) => (snapshot_and_sync(kept).await, resets(kept).await),
            Err(why) => (Err(why.clone()), Err(why.clone())),
        };
        for (both, ours, theirs) in [(copies, &mut snapshot, &mut synced), (resets, &mut reset, &mut started)]
        {
            let (our, their) = split(both);
            bench.keep(Measure::Reflink, ours, our);
            bench.keep(Measure::Reflink, theirs, their);
        }
    }
    let row = |at: usize, ours, what: &str, theirs| {
        let (name, of) = ROWS[at];
        Row::new(name, "ms", format!("{of} {WRITTEN_MIB} MiB"), ours).against(what, theirs)
    };
    vec![
        row(0, snapshot, "as much written again, and `sync` in its guest", synced),
        row(1, reset, "pyro workspace start of the same, stopped: from the bare template", started),
    ]
}

async fn resets(kept: &Kept) -> Result<(f64, f64), String> {
    let ours = kept.pyro("reset", &["--snapshot", "bench"]).await?;
    kept.pyro("stop", &[]).await?;
    Ok((ours, kept.pyro("start", &[]).await?))
}
