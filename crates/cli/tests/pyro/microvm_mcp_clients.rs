//! The MCP server as its official clients meet it: the TypeScript and Python SDKs and the inspector each repair a small
//! project in a real microVM, and the conformance suite judges the protocol. `make test` installs them, by the lock files
//! in tests/mcp.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Said, World, prepared};

const TOKEN: &str = "a-token-of-the-tests-only";

/// A world with a project that fails its test, and the clients.
struct Bench {
    world: World,
    clients: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let mut world = World::new();
        world.set("PYRO_MCP_TOKEN", TOKEN);
        let clients = prepared("PYRO_TEST_MCP_CLIENTS_DIR");
        world.set("PYTHONPATH", clients.join("python"));
        world.set("PYTHONDONTWRITEBYTECODE", "1");
        let bench = Self { world, clients };
        let project = bench.dir().join("project");
        std::fs::create_dir_all(&project).unwrap();
        std::fs::write(project.join("calc.sh"), "add() {\n    echo $(($1 - $2))\n}\n").unwrap();
        let test =
            ". ./calc.sh\nsum=$(add 2 3)\n[ \"$sum\" = 5 ] || { echo \"2 and 3 make $sum\"; exit 3; }\n";
        std::fs::write(project.join("test.sh"), test).unwrap();
        // A script finds its packages beside it.
        symlink(bench.clients.join("node_modules"), bench.dir().join("node_modules")).unwrap();
        bench
    }

    /// Where the clients and the server work: the only directory of the host that the server may use.
    fn dir(&self) -> PathBuf {
        self.world.home.path().canonicalize().unwrap().join("work")
    }

    /// Runs one of the clients with a script of ours.
    fn script(&self, interpreter: &str, name: &str, args: &[&str]) -> Said {
        let from = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/mcp")).join(name);
        std::fs::copy(from, self.dir().join(name)).unwrap();
        let args: Vec<&str> = std::iter::once(name).chain(args.iter().copied()).collect();
        let mut command = self.world.program(&self.clients.join(interpreter), &args);
        ended(command.current_dir(self.dir()))
    }

    /// Repairs the project by a script, and says which revision of the protocol was spoken.
    fn repair(&self, interpreter: &str, name: &str, args: &[&str]) -> String {
        let said = self.script(interpreter, name, args);
        assert_eq!(said.code, Some(0), "{said:#?}");
        let list = self.world.pyro(&["workspace", "list", "--json"]).json();
        assert_eq!(list["workspaces"], json!([]), "a workspace was left behind");
        let told = said.json();
        assert_eq!(told["server"], "pyro");
        told["protocol"].as_str().unwrap().to_owned()
    }

    /// One call of the inspector's command line: a server of its own each time.
    fn inspect(&self, profile: &str, args: &[&str]) -> Said {
        let launcher =
            self.clients.join("node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js");
        let mut all = vec![launcher.to_str().unwrap().to_owned(), "--cli".into()];
        // Clients hand on few variables by themselves.
        for (name, value) in &self.world.variables {
            all.extend(["-e".into(), format!("{name}={}", value.display())]);
        }
        let server = [PYRO, "mcp", "serve", "--profile", profile];
        all.extend(server.into_iter().chain(args.iter().copied()).map(str::to_owned));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let mut command = self.world.program(&self.clients.join("node"), &all);
        ended(command.current_dir(self.dir()))
    }

    /// A tool's structured result, by the inspector.
    fn call(&self, tool: &str, arguments: &Value) -> Value {
        let text = arguments.to_string();
        let said = self.inspect(
            "workspace-core",
            &["--method", "tools/call", "--tool-name", tool, "--tool-args-json", &text],
        );
        assert_eq!(said.code, Some(0), "{tool}: {said:#?}");
        let result = said.json();
        assert_ne!(result["isError"], true, "{tool}: {result}");
        result["structuredContent"].clone()
    }
}

/// Runs it to its end. A client has limits of its own for each call, and takes as long as they all do.
fn ended(command: &mut Command) -> Said {
    command.output().unwrap().into()
}

/// A server over HTTP, which goes with this.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(bench: &Bench, profile: &str) -> Self {
        let args = ["mcp", "serve", "--profile", profile, "--transport", "http", "--listen", "127.0.0.1:0"];
        let mut command = bench.world.command(&args);
        let mut child =
            command.current_dir(bench.dir()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.find_map(|line| line.split_once("listening on ").map(|(_, url)| url.to_owned()));
        // It must not stop for want of a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url: url.unwrap() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PYRO: &str = env!("CARGO_BIN_EXE_pyro");

#[test]
fn the_typescript_client_repairs_a_project() {
    let bench = Bench::new();
    let serve = [PYRO, "mcp", "serve", "--profile", "workspace-core"];
    for (mode, protocol) in [("legacy", "2025-11-25"), ("auto", "2026-07-28")] {
        let args: Vec<&str> = std::iter::once(mode).chain(serve).collect();
        assert_eq!(bench.repair("node", "repair.mjs", &args), protocol);
        std::fs::remove_file(bench.dir().join("repaired.sh")).unwrap();
    }
}

#[test]
fn the_python_client_repairs_a_project() {
    let bench = Bench::new();
    let serve = [PYRO, "mcp", "serve", "--profile", "workspace-full"];
    for (mode, protocol) in [("legacy", "2025-11-25"), ("auto", "2026-07-28")] {
        let args: Vec<&str> = std::iter::once(mode).chain(serve).collect();
        assert_eq!(bench.repair("python3", "repair.py", &args), protocol);
        std::fs::remove_dir_all(bench.dir().join("repaired")).unwrap();
    }
}

#[test]
fn both_clients_repair_it_over_http() {
    let bench = Bench::new();
    let server = Server::start(&bench, "workspace-full");
    assert_eq!(bench.repair("node", "repair.mjs", &["legacy", &server.url]), "2025-11-25");
    assert_eq!(bench.repair("python3", "repair.py", &["auto", &server.url]), "2026-07-28");
}

#[test]
fn the_inspector_repairs_a_project() {
    let bench = Bench::new();
    for profile in ["vm-run", "workspace-core", "workspace-full"] {
        // Schemas that some client could not read are errors, each with an exit code of its own.
        let said = bench.inspect(profile, &["--method", "tools/list", "--strict"]);
        assert_eq!(said.code, Some(0), "{profile}: {said:#?}");
    }
    let id = &bench.call("workspace_create", &json!({"environment": "debian:12", "seed_path": "project"}))["workspace_id"];
    let test = || bench.call("workspace_exec", &json!({"workspace_id": id, "command": "sh test.sh"}));
    assert_eq!(test()["exit_code"], 3);
    let read = bench.call("workspace_file_read", &json!({"workspace_id": id, "path": "calc.sh"}));
    let patch = "--- a/calc.sh\n+++ b/calc.sh\n@@ -1,3 +1,3 @@\n add() {\n-    echo $(($1 - $2))\n+    echo $(($1 + $2))\n }\n";
    assert!(patch.contains(read["content"].as_str().unwrap().lines().nth(1).unwrap()));
    bench.call("workspace_patch_apply", &json!({"workspace_id": id, "patch": patch}));
    assert_eq!(test()["exit_code"], 0);
    let diff = bench.call("workspace_diff", &json!({"workspace_id": id}));
    assert!(diff["patch"].as_str().unwrap().contains("+    echo $(($1 + $2))"), "{diff}");
    bench.call("workspace_export", &json!({"workspace_id": id, "path": "calc.sh", "output_path": "out.sh"}));
    assert!(std::fs::read_to_string(bench.dir().join("out.sh")).unwrap().contains("$1 + $2"));
    bench.call("workspace_delete", &json!({"workspace_id": id}));
}

/// Runs a conformance suite over HTTP. It fails on what fails and is not in the list of `expected` failures, and on what is
/// in it and passes.
fn conforms(suite: &str, what: &[&str], expected: &str, scenarios: usize) {
    let bench = Bench::new();
    let server = Server::start(&bench, "workspace-full");
    let suite = bench.clients.join("node_modules").join(suite).join("dist/index.js");
    let expected = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/mcp")).join(expected);
    let args = [suite.to_str().unwrap(), &server.url, "--expected-failures", expected.to_str().unwrap()];
    let said = bench.script("node", "conformance.mjs", &[&args, what].concat());
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout(), said.err);
    // It would be content with none as well.
    let ran = said.stdout().matches("=== Running scenario").count();
    assert_eq!(ran, scenarios, "{}", said.stdout());
}

#[test]
fn the_conformance_suite_finds_nothing_unexpected() {
    conforms("@modelcontextprotocol/conformance", &["--suite", "all"], "conformance-expected.yml", 32);
}

#[test]
fn what_the_newest_revision_requires_is_there() {
    let what = ["--requirements", "2026-07-28"];
    conforms("conformance-next", &what, "conformance-2026-07-28-expected.yml", 50);
}
