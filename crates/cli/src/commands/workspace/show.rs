//! Workspaces for people: tables that align, times as how long ago.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{SystemTime, UNIX_EPOCH};

use pyro_core::workspace::{FileEntry, List, Listed, SnapshotList, Status, Unreadable, WorkspaceState};

use super::table::{Cell, CellStyle, table};
use crate::error::{CliError, printed};
use crate::output::{self, errln};

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

/// Columns of a list's table, counted from 0.
const NAME: usize = 1;
const ENVIRONMENT: usize = 3;
const COMMANDS: usize = 4;
const LABELS: usize = 8;

/// As much of a list's table as lines of `width` characters hold: what tells workspaces apart stays longest.
fn fitted(mut rows: Vec<Vec<Cell>>, width: usize) -> Vec<Vec<Cell>> {
    let widest =
        |rows: &[Vec<Cell>], column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let excess = |rows: &[Vec<Cell>]| {
        let columns = rows.first().map_or(0, Vec::len);
        let cells: usize = (0..columns).map(|column| widest(rows, column)).sum();
        (cells + 2 * columns.saturating_sub(1)).saturating_sub(width)
    };
    let cut = |rows: &mut [Vec<Cell>], column: usize, least: usize| {
        let room = widest(rows, column).saturating_sub(excess(rows)).max(least);
        rows.iter_mut().for_each(|row| row[column].cut(room));
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
    output::print(text.as_bytes());
}

/// Prints everything about a workspace.
pub fn status(status: &Status) {
    let now = now();
    let version = status.environment_version.as_deref().unwrap_or_default();
    let mut rows = vec![
        ("workspace", status.workspace_id.clone()),
        ("name", status.name.clone().unwrap_or_else(|| "-".into())),
        ("state", status.state.to_string()),
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
    if let (WorkspaceState::Unresponsive, Some(why)) = (status.state, status.metadata.get("guest")) {
        let why = one_line(why);
        rows.push((
            "guest",
            format!("does not answer ({why}); `pyro workspace stop` and `start` bring it back"),
        ));
    } else if status.state == WorkspaceState::Unresponsive {
        let pid = status.keeper_pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
        rows.push(("keeper", format!("does not answer{pid}; `pyro workspace stop --force` ends it")));
    }
    if status.state == WorkspaceState::Stopped
        && let Some(why) = status.metadata.get("stopped_because")
    {
        rows.push(("stopped because", one_line(why)));
    }
    let rows: Vec<_> = rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect();
    print(&table(rows));
}

pub(super) fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect();
    if text.chars().count() > 100 { format!("{line}…") } else { line }
}

fn services(running: u64, all: u64) -> String {
    if running == all { all.to_string() } else { format!("{running} of {all} run") }
}

/// Prints a table of workspaces.
pub fn list(list: &List) {
    for Unreadable { workspace_id, error } in &list.unreadable {
        errln!("[list] {workspace_id} cannot be read: {}", printable(error));
    }
    if list.workspaces.is_empty() && list.unreadable.is_empty() {
        errln!("there are no workspaces; make one with `pyro workspace create debian:12`");
        return;
    }
    let terminal = std::io::stdout().is_terminal();
    let rows = list_rows(&list.workspaces, now(), terminal);
    if terminal {
        let width = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| size.ws_col);
        print(&table(if width > 0 { fitted(rows, width.into()) } else { rows }));
    } else {
        print(&table(rows));
    }
}

/// Table of a list with its head; with `painted` states have colour.
fn list_rows(workspaces: &[Listed], now: f64, painted: bool) -> Vec<Vec<Cell>> {
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
    let mut rows = vec![head.map(|title| Cell::from(title.to_owned())).to_vec()];
    rows.extend(workspaces.iter().map(|each| {
        let style = state_style(each.state).filter(|_| painted);
        vec![
            each.workspace_id.clone().into(),
            each.name.clone().unwrap_or_else(|| "-".into()).into(),
            Cell::styled(each.state.to_string(), style),
            each.environment.clone().into(),
            each.command_count.to_string().into(),
            Cell::from(match each.service_count {
                0 => "-".into(),
                all => format!("{}/{all}", each.running_service_count),
            }),
            ago(each.last_activity_at, now).into(),
            ahead(each.expires_at, now).into(),
            labels(&each.labels).into(),
        ]
    }));
    rows
}

/// Style of a workspace's state.
fn state_style(state: WorkspaceState) -> Option<CellStyle> {
    match state {
        WorkspaceState::Started => Some(CellStyle::Green),
        WorkspaceState::Stopped => Some(CellStyle::Faint),
        WorkspaceState::Unresponsive => Some(CellStyle::Red),
        WorkspaceState::Starting
        | WorkspaceState::Resetting
        | WorkspaceState::Stopping
        | WorkspaceState::Deleting => None,
    }
}

/// Makes a guest's text safe to print: `?` for whatever would move a terminal's cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Prints a listing of files.
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
        errln!("[files] there are more than {} entries: the rest is not listed", entries.len());
    }
}

/// Prints the content of a file; with `path` under a line that names it and with a line feed at its end.
pub fn content(bytes: &[u8], path: Option<&String>) -> Result<(), CliError> {
    if let Some(path) = path {
        errln!("[file] {}", printable(path));
    }
    output::print(bytes);
    if path.is_some() && !bytes.is_empty() && !bytes.ends_with(b"\n") {
        output::print(b"\n");
    }
    printed()
}

/// Says what is not shown of a file: secrets, and that there is more than was read.
pub fn cut(redacted: bool, truncated: bool, max_bytes: u64, size_bytes: u64) {
    if redacted {
        errln!(
            "[file] a secret is in it, shown as [REDACTED]; `pyro workspace export` gives the file as it is"
        );
    }
    if truncated {
        errln!("[file] only the first {max_bytes} of {size_bytes} bytes; --max-bytes reads more");
    }
}

/// Prints a table of a workspace's snapshots.
pub fn snapshots(list: &SnapshotList) {
    let now = now();
    let mut rows = vec![["SNAPSHOT", "KIND", "MADE", "SIZE"].map(str::to_owned).to_vec()];
    rows.extend(list.snapshots.iter().map(|each| {
        let size = format!("{:.1} MiB", each.bytes_written as f64 / f64::from(1 << 20));
        let kind = if each.memory { format!("{}, with memory", each.kind) } else { each.kind.to_string() };
        vec![each.snapshot_name.clone(), kind, ago(each.created_at, now), size]
    }));
    print(&table(rows));
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
    fn a_list_fits_into_its_terminal() {
        let head = "WORKSPACE NAME STATE ENVIRONMENT COMMANDS SERVICES USED EXPIRES LABELS";
        let row = "0123456789ab a-name-of-twenty-chars started debian:12-build 1234 1/2 3_min_ago in_10_min issue=42";
        let rows: Vec<Vec<Cell>> = [head, row]
            .map(|line| line.split(' ').map(|word| Cell::from(word.to_owned())).collect())
            .to_vec();
        assert_eq!(fitted(rows.clone(), 200), rows);
        let look = |width| {
            let text = table(fitted(rows.clone(), width));
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

    fn workspace(name: &str, state: &str, labels: &[(&str, &str)]) -> Listed {
        let seed = serde_json::json!({
            "mode": "empty", "seed_path": null, "destination": "/workspace", "entry_count": 0, "bytes_written": 0
        });
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let status = serde_json::json!({
            "workspace_id": "0123456789ab", "name": name, "labels": labels, "environment": "debian:12",
            "environment_version": null, "vcpu_count": 1, "mem_mib": 256, "ttl_seconds": 0, "created_at": 0.0,
            "last_activity_at": 0.0, "expires_at": null, "state": state, "network_policy": "off",
            "network_enabled": false, "allow_host_compat": false, "guest_ip": null, "tap_name": null,
            "execution_mode": "guest_vsock", "backend": "qemu", "accelerator": "kvm",
            "workspace_path": "/workspace", "workspace_seed": seed, "secrets": [], "command_count": 0,
            "last_command": null, "reset_count": 0, "last_reset_at": null, "service_count": 0,
            "running_service_count": 0, "metadata": {}, "keeper_pid": null
        });
        let status: Status = serde_json::from_value(status).unwrap();
        status.into()
    }

    #[test]
    fn states_are_painted_and_names_and_labels_that_read_like_them_are_not() {
        let all = [
            workspace("started", "stopped", &[("why", " started "), ("x", "a stopped b")]),
            workspace("stopped", "started", &[("is", "an unresponsive one")]),
            workspace(" unresponsive ", "unresponsive", &[]),
            workspace("rest", "starting", &[]),
        ];
        let plain = table(list_rows(&all, 5.0, false));
        assert!(!plain.contains('\x1b'), "{plain}");
        let painted = table(list_rows(&all, 5.0, true));
        let lines: Vec<_> = painted.lines().collect();
        assert!(lines[1].contains("  \x1b[2mstopped\x1b[0m       debian:12  "), "{painted:?}");
        assert!(lines[1].contains("  started         ") && lines[1].ends_with("why= started ,x=a stopped b"));
        assert!(lines[2].contains("  \x1b[32mstarted\x1b[0m       debian:12  "), "{painted:?}");
        assert!(lines[2].ends_with("is=an unresponsive one"), "{painted:?}");
        assert!(
            lines[3].contains("   unresponsive   \x1b[31munresponsive\x1b[0m  debian:12  "),
            "{painted:?}"
        );
        assert_eq!(painted.matches("\x1b[0m").count(), 3, "{painted:?}");
        let unpainted = ["\x1b[32m", "\x1b[2m", "\x1b[31m", "\x1b[0m"]
            .into_iter()
            .fold(painted, |text, escape| text.replace(escape, ""));
        assert_eq!(unpainted, plain, "colour moves nothing");
        let narrow = table(fitted(list_rows(&all, 5.0, true), 60));
        assert!(narrow.contains("\x1b[2mstopped\x1b[0m     "), "{narrow:?}");
    }

    #[test]
    fn commands_stay_in_their_line() {
        assert_eq!(one_line("a\nb\x1b[31m"), "a b [31m");
        assert_eq!(one_line(&"x".repeat(200)).chars().count(), 101);
    }
}
