//! The protocol: what a client asks for, answered.

use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
    CompletionInfo, ContentBlock, ErrorCode, ErrorData, GetPromptRequestParams, GetPromptResponse,
    Implementation, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult,
    ServerCapabilities, ServerConfig, Tool as Shown,
};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, ServerHandler, ServiceExt as _};

use super::call::Call;
use super::host::Host;
use super::lines::Lines;
use super::profile::Profile;
use super::tool::Tool;
use super::tools;
use super::{prompts, resources, stdio};

/// Words about this server for a client's model.
const INSTRUCTIONS: &str = "\
pyro gives you isolated Linux machines; nothing that runs in them touches the person's host.
1. workspace_create (seed_path copies a project in), or vm_run for one command that needs no files kept.
2. Look and edit with workspace_file_list, workspace_file_read, workspace_file_write and workspace_patch_apply.
3. workspace_exec runs commands in /workspace; a command's exit code is its own, not a failure of the tool.
4. workspace_diff shows all that changed since the beginning; workspace_reset goes back to it.
5. workspace_export copies results to the host; workspace_delete when done.";

/// The same where there is one tool.
const ALONE: &str = "\
pyro runs a command in an isolated Linux machine that is thrown away afterwards; nothing in it touches the person's \
host. A command's exit code is its own, not a failure of the tool.";

/// Server for any number of clients.
#[derive(Clone)]
pub struct Server {
    host: Arc<Host>,
    /// In the order in which they are shown.
    tools: Arc<Vec<Tool>>,
    profile: Profile,
}

impl Server {
    /// Server that shows a profile's tools.
    pub fn new(host: Arc<Host>, profile: Profile) -> Self {
        let tools: Vec<Tool> = tools::all().into_iter().filter(|tool| profile.shows(tool.name())).collect();
        Self { host, tools: tools.into(), profile }
    }

    fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name() == name)
    }

    async fn call(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let Some(tool) = self.tool(&request.name) else {
            let there = "tools/list shows those that there are";
            return Err(ErrorData::invalid_params(
                format!("there is no tool {:?}: {there}", request.name),
                None,
            ));
        };
        let arguments = request.arguments.unwrap_or_default();
        // Nothing may be awaited before this: it is what keeps calls in the order in which they came.
        let turn = tool.place.map(|place| {
            let resolve = |word: &str| self.host.workspaces.resolve(word);
            self.host.order.enter(tool.uses(&arguments), place, resolve)
        });
        let (call, teller) = Call::new(context.peer.clone(), context.meta.get_progress_token());
        let done = async {
            if let Some(turn) = &turn {
                turn.come().await;
            }
            tool.call(Arc::clone(&self.host), arguments, call).await
        };
        let done = tokio::select! {
            biased;
            // One that is given up before it began does not begin; dropping one that did ends what it began.
            () = context.ct.cancelled() => None,
            done = done => Some(done),
        };
        teller.end().await;
        let Some(done) = done else { return Err(cancelled()) };
        Ok(match done {
            Ok(value) => {
                let mut result = CallToolResult::success(vec![ContentBlock::text(value.to_string())]);
                result.structured_content = Some(value);
                result
            }
            Err(failure) => failure.result(),
        })
    }
}

fn cancelled() -> ErrorData {
    ErrorData::new(ErrorCode::INTERNAL_ERROR, "the call was cancelled", None)
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_prompts().enable_resources();
        let mut info = ServerConfig::new(match self.profile.has_workspaces() {
            true => capabilities.enable_completions().build(),
            false => capabilities.build(),
        });
        info.server_info = Implementation::new("pyro", env!("CARGO_PKG_VERSION"));
        info.instructions = Some(match self.profile.has_workspaces() {
            true => format!("{INSTRUCTIONS}\n{}", self.host.roots.words()),
            false => ALONE.into(),
        });
        info
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools: Vec<Shown> = self.tools.iter().map(|tool| tool.shown().clone()).collect();
        Ok(ListToolsResult::with_all_items(tools))
    }

    fn get_tool(&self, name: &str) -> Option<Shown> {
        self.tool(name).map(|tool| tool.shown().clone())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(prompts::list(self.profile.has_workspaces())))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        Ok(prompts::get(&request.name, &arguments, self.profile.has_workspaces())?.into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let workspaces = self.profile.has_workspaces();
        Ok(ListResourcesResult::with_all_items(resources::list(&self.host, workspaces).await?))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let workspaces = self.profile.has_workspaces();
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates(workspaces)))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let workspaces = self.profile.has_workspaces();
        tokio::select! {
            biased;
            () = context.ct.cancelled() => Err(cancelled()),
            read = resources::read(&self.host, &request.uri, workspaces) => Ok(ReadResourceResult::new(read?).into()),
        }
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let values = match request.argument.name.as_str() {
            "workspace_id" if self.profile.has_workspaces() => {
                resources::workspaces_like(&self.host, &request.argument.value).await
            }
            _ => Vec::new(),
        };
        let completion = CompletionInfo::with_all_values(values);
        Ok(CompleteResult::new(completion.map_err(|error| ErrorData::internal_error(error, None))?))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.call(request, context).await.map(Into::into)
    }
}

/// Serves the client at the other end of standard input and output until it goes.
///
/// # Errors
/// When the conversation cannot begin.
pub async fn serve_stdio(host: Arc<Host>, profile: Profile) -> Result<(), String> {
    let (input, output) = (stdio::input(), stdio::output());
    match Server::new(host, profile).serve(Lines::new(input, output)).await {
        Ok(running) => running.waiting().await.map(|_| ()).map_err(|error| error.to_string()),
        // A client that goes before it said anything is no failure.
        Err(rmcp::service::ServerInitializeError::ConnectionClosed(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
