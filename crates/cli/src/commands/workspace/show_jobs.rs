//! Shells and services for people.

use pyro_core::workspace::{ReadinessProbe, Service, ServiceList, ShellList};

use super::show::{ago, now, one_line, print};
use super::table::table;

use crate::output::errln;

fn code(exit_code: Option<i32>) -> String {
    exit_code.map_or_else(|| "-".into(), |code| code.to_string())
}

/// Prints a table of shells.
pub fn shells(list: &ShellList) {
    if list.shells.is_empty() {
        errln!("there are no shells; open one with `pyro workspace shell open`");
        return;
    }
    let now = now();
    let mut rows =
        vec![["SHELL", "STATE", "EXIT", "SIZE", "OPENED", "DIRECTORY"].map(str::to_owned).to_vec()];
    rows.extend(list.shells.iter().map(|each| {
        vec![
            each.shell_id.clone(),
            each.state.to_string(),
            code(each.exit_code),
            format!("{}x{}", each.cols, each.rows),
            ago(each.started_at, now),
            one_line(&each.cwd),
        ]
    }));
    print(&table(rows));
}

/// Prints a table of services.
pub fn services(list: &ServiceList) {
    if list.services.is_empty() {
        errln!("there are no services; start one with `pyro workspace service start`");
        return;
    }
    let now = now();
    let mut rows =
        vec![["SERVICE", "STATE", "READY", "EXIT", "STARTED", "COMMAND"].map(str::to_owned).to_vec()];
    rows.extend(list.services.iter().map(|each| {
        vec![
            each.service_name.clone(),
            each.state.to_string(),
            ready(each),
            code(each.exit_code),
            ago(each.started_at, now),
            one_line(&each.command),
        ]
    }));
    print(&table(rows));
}

fn ready(service: &Service) -> String {
    match (&service.readiness, service.ready_at) {
        (None, _) => "-".into(),
        (Some(_), Some(at)) => format!("after {:.1} s", (at - service.started_at).max(0.0)),
        (Some(_), None) => "no".into(),
    }
}

/// Prints everything about a service.
pub fn service(service: &Service) {
    let now = now();
    let mut rows = vec![
        ("service", service.service_name.clone()),
        ("state", service.state.to_string()),
        ("command", one_line(&service.command)),
        ("directory", one_line(&service.cwd)),
        ("started", ago(service.started_at, now)),
    ];
    if let Some(readiness) = &service.readiness {
        let what = match readiness {
            ReadinessProbe::File { path } => format!("file {path}"),
            ReadinessProbe::Tcp { address } => format!("tcp {address}"),
            ReadinessProbe::Http { url } => url.clone(),
            ReadinessProbe::Command { command } => format!("command {command}"),
        };
        rows.push(("readiness", one_line(&what)));
        rows.push(("ready", ready(service)));
    }
    match (service.ended_at, service.pid) {
        (Some(at), _) => {
            rows.push(("ended", ago(at, now)));
            rows.push(("exit code", code(service.exit_code)));
        }
        (None, Some(pid)) => rows.push(("process", pid.to_string())),
        (None, None) => {}
    }
    if let Some(why) = &service.stop_reason {
        rows.push(("stop reason", one_line(why)));
    }
    let rows: Vec<_> = rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect();
    print(&table(rows));
}
