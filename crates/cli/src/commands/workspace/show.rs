//! Workspaces for people: tables that align, times as how long ago.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use pyro_core::workspace::{FileEntry, List, SnapshotList, Status, UNRESPONSIVE, Unreadable};

use crate::error::CliError;

pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Whole seconds as a person would say them, in one unit.
fn span(seconds: f64) -> String {
    match seconds.max(0.0) as u64 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

pub(super) fn ago(then: f64, now: f64) -> String {
    if now - then < 1.0 { "now".into() } else { format!("{} ago", span(now - then)) }
}

fn ahead(then: Option<f64>, now: f64) -> String {
    match then {
        None => "never".into(),
        Some(then) if then > now => format!("in {}", span(then - now)),
        Some(then) => ago(then, now),
    }
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Columns as wide as their widest cell; the last as wide as it is.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Where in a list's table what is.
const NAME: usize = 1;
const ENVIRONMENT: usize = 3;
const COMMANDS: usize = 4;
const LABELS: usize = 8;

/// As much of a list's table as lines of `width` characters hold: what tells workspaces apart stays longest.
fn fitted(mut rows: Vec<Vec<String>>, width: usize) -> Vec<Vec<String>> {
    let widest = |rows: &[Vec<String>], column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let excess = |rows: &[Vec<String>]| {
        let columns = rows.first().map_or(0, Vec::len);
        let cells: usize = (0..columns).map(|column| widest(rows, column)).sum();
        (cells + 2 * columns.saturating_sub(1)).saturating_sub(width)
    };
    let cut = |rows: &mut [Vec<String>], column: usize, least: usize| {
        let room = widest(rows, column).saturating_sub(excess(rows)).max(least);
        for cell in rows.iter_mut().map(|row| &mut row[column]).filter(|cell| cell.chars().count() > room) {
            *cell = cell.chars().take(room.saturating_sub(1)).chain(['…']).collect();
        }
    };
    cut(&mut rows, LABELS, 12);
    // From the right, so that the others keep their places.
    let mut labels = LABELS;
    for column in [COMMANDS, ENVIRONMENT] {
        if excess(&rows) > 0 {
            rows.iter_mut().for_each(|row| drop(row.remove(column)));
            labels -= 1;
        }
    }
    if excess(&rows) > 0 {
        rows.iter_mut().for_each(|row| drop(row.remove(labels)));
    }
    cut(&mut rows, NAME, 8);
    rows
}

pub(super) fn print(text: &str) {
    // A reader that went away gets nothing, and nothing is to be said about it.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Everything about one.
pub fn status(status: &Status) {
    let now = now();
    let version = status.environment_version.as_deref().unwrap_or_default();
    let mut rows = vec![
        ("workspace", status.workspace_id.clone()),
        ("name", status.name.clone().unwrap_or_else(|| "-".into())),
        ("state", status.state.clone()),
        ("environment", format!("{} ({version})", status.environment)),
        ("size", format!("{} vCPU, {} MiB", status.vcpu_count, status.mem_mib)),
        ("runs under", format!("{} ({})", status.backend, status.accelerator)),
        ("made", ago(status.created_at, now)),
        ("last used", ago(status.last_activity_at, now)),
        ("expires", ahead(status.expires_at, now)),
        ("commands", status.command_count.to_string()),
        ("services", services(status.running_service_count, status.service_count)),
    ];
    if let Some(last) = &status.last_command {
        rows.push(("last command", format!("{} (exit code {})", one_line(&last.command), last.exit_code)));
    }
    if !status.secrets.is_empty() {
        let names: Vec<_> = status.secrets.iter().map(|secret| secret.name.as_str()).collect();
        rows.push(("secrets", names.join(", ")));
    }
    if !status.labels.is_empty() {
        rows.push(("labels", labels(&status.labels)));
    }
    if status.state == UNRESPONSIVE {
        let pid = status.keeper_pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
        rows.push(("keeper", format!("does not answer{pid}; `pyro workspace stop --force` ends it")));
    }
    if status.state == "stopped"
        && let Some(why) = status.metadata.get("stopped_because")
    {
        rows.push(("stopped because", one_line(why)));
    }
    let rows: Vec<_> = rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect();
    print(&table(&rows));
}

pub(super) fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect();
    if text.chars().count() > 100 { format!("{line}…") } else { line }
}

fn services(running: u64, all: u64) -> String {
    if running == all { all.to_string() } else { format!("{running} of {all} run") }
}

/// All of them.
pub fn list(list: &List) {
    for Unreadable { workspace_id, error } in &list.unreadable {
        eprintln!("[list] {workspace_id} cannot be read: {}", printable(error));
    }
    if list.workspaces.is_empty() && list.unreadable.is_empty() {
        eprintln!("there are no workspaces; make one with `pyro workspace create debian:12`");
        return;
    }
    let now = now();
    let head = [
        "WORKSPACE",
        "NAME",
        "STATE",
        "ENVIRONMENT",
        "COMMANDS",
        "SERVICES",
        "LAST USED",
        "EXPIRES",
        "LABELS",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(list.workspaces.iter().map(|each| {
        vec![
            each.workspace_id.clone(),
            each.name.clone().unwrap_or_else(|| "-".into()),
            each.state.clone(),
            each.environment.clone(),
            each.command_count.to_string(),
            match each.service_count {
                0 => "-".into(),
                all => format!("{}/{all}", each.running_service_count),
            },
            ago(each.last_activity_at, now),
            ahead(each.expires_at, now),
            labels(&each.labels),
        ]
    }));
    if std::io::stdout().is_terminal() {
        let width = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| size.ws_col);
        let text = table(&if width > 0 { fitted(rows, width.into()) } else { rows });
        // Colour stays out of the cells, whose widths it would upset.
        print(
            &text
                .replace(" started ", " \x1b[32mstarted\x1b[0m ")
                .replace(" stopped ", " \x1b[2mstopped\x1b[0m ")
                .replace(" unresponsive ", " \x1b[31munresponsive\x1b[0m "),
        );
    } else {
        print(&table(&rows));
    }
}

/// Names that a guest chose, without what would move a terminal's cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A listing of files.
pub fn files(entries: &[FileEntry], truncated: bool) {
    let mut text = String::new();
    for entry in entries {
        let path = printable(&entry.path);
        let end = match (entry.artifact_type, &entry.link_target) {
            ("directory", _) => "/".to_owned(),
            (_, Some(target)) => format!(" -> {}", printable(target)),
            _ => String::new(),
        };
        text.push_str(&format!("{:>12}  {path}{end}\n", entry.size_bytes));
    }
    print(&text);
    if truncated {
        eprintln!("[files] there are more than {} entries: the rest is not listed", entries.len());
    }
}

/// What is in a file; with `path` under a line that names it and with a line feed at its end.
pub fn content(bytes: &[u8], path: Option<&String>) -> Result<(), CliError> {
    let mut out = std::io::stdout();
    let mut write = || {
        if let Some(path) = path {
            eprintln!("[file] {}", printable(path));
        }
        out.write_all(bytes)?;
        if path.is_some() && !bytes.is_empty() && !bytes.ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    match write() {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(CliError::OutputClosed),
        Err(error) => Err(CliError::new(format!("the content cannot be printed: {error}"), None)),
        Ok(()) => Ok(()),
    }
}

/// Says what is not shown of a file: secrets, and that there is more than was read.
pub fn cut(redacted: bool, truncated: bool, max_bytes: u64, size_bytes: u64) {
    if redacted {
        eprintln!(
            "[file] a secret is in it, shown as [REDACTED]; `pyro workspace export` gives the file as it is"
        );
    }
    if truncated {
        eprintln!("[file] only the first {max_bytes} of {size_bytes} bytes; --max-bytes reads more");
    }
}

/// The snapshots of one.
pub fn snapshots(list: &SnapshotList) {
    let now = now();
    let mut rows = vec![["SNAPSHOT", "KIND", "MADE", "SIZE"].map(str::to_owned).to_vec()];
    rows.extend(list.snapshots.iter().map(|each| {
        let size = format!("{:.1} MiB", each.bytes_written as f64 / f64::from(1 << 20));
        let kind = if each.memory { format!("{}, with memory", each.kind) } else { each.kind.clone() };
        vec![each.snapshot_name.clone(), kind, ago(each.created_at, now), size]
    }));
    print(&table(&rows));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        assert_eq!(span(0.4), "0 s");
        assert_eq!(span(119.9), "119 s");
        assert_eq!(span(120.0), "2 min");
        assert_eq!(span(7_200.0), "2 h");
        assert_eq!(span(200_000.0), "2 d");
        assert_eq!((ago(10.0, 10.5), ago(10.0, 15.0)), ("now".into(), "5 s ago".into()));
        assert_eq!((ahead(None, 0.0), ahead(Some(600.0), 0.0)), ("never".into(), "in 10 min".into()));
    }

    #[test]
    fn columns_align_and_lines_end_where_their_words_do() {
        let rows = [["A", "LONG"], ["äöü", "b"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "A    LONG\näöü  b\n");
    }

    #[test]
    fn a_list_fits_into_its_terminal() {
        let head = "WORKSPACE NAME STATE ENVIRONMENT COMMANDS SERVICES USED EXPIRES LABELS";
        let row = "0123456789ab a-name-of-twenty-chars started debian:12-build 1234 1/2 3_min_ago in_10_min issue=42";
        let rows: Vec<Vec<String>> =
            [head, row].map(|line| line.split(' ').map(str::to_owned).collect()).to_vec();
        assert_eq!(fitted(rows.clone(), 200), rows);
        let look = |width| {
            let text = table(&fitted(rows.clone(), width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            text
        };
        let at_112 = look(112);
        assert!(at_112.contains("issue=42") && at_112.contains("debian:12-build"), "{at_112}");
        let at_80 = look(80);
        assert!(
            at_80.contains("a-name-of-twe") && at_80.contains("1/2") && !at_80.contains("debian"),
            "{at_80}"
        );
        assert!(look(70).contains("in_10_min"));
    }

    #[test]
    fn commands_stay_in_their_line() {
        assert_eq!(one_line("a\nb\x1b[31m"), "a b [31m");
        assert_eq!(one_line(&"x".repeat(200)).chars().count(), 101);
    }
}
