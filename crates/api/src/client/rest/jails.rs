//! Jails, their releases and templates.

use moat_model::ErrorKind;
use moat_model::jail::{
    ApplyTemplate, Bootstrap, ChangeJail, CloneJail, DestroyJail, FetchTemplate, ImportJail, JailEvent, JailLimit,
    JailMount, JailView, NewJail, Redirect, RemoveLimit, RemoveMount, RenameJail, StopJail, TakeJailSnapshot,
    TemplateCheck, TemplateName, TemplateView, UpgradeJail,
};
use reqwest::{Body, Method, Response, header};

use super::{ByteStream, Error, Lines, RestClient, Result, bytes_of};
use crate::rest::jail::{JailList, JailSnapshots, JailTemplateList, ReadConsole, ReleaseList, UploadRelease};

/// Header with the digest of an archive.
pub const SHA256_HEADER: &str = "x-moat-sha256";

/// An archive of a jail on its way.
pub struct ExportedJail {
    /// What the file should be called.
    pub name: String,
    /// SHA-256 of all of it, in hexadecimal.
    pub sha256: String,
    /// The bytes.
    pub content: ByteStream,
}

impl std::fmt::Debug for ExportedJail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportedJail").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A member of a query that is there when it is true.
fn yes(yes: bool) -> Option<String> {
    yes.then(|| "true".to_owned())
}

impl RestClient {
    /// Jails of the namespace, in the order they are started in.
    pub async fn jails(&self) -> Result<JailList> {
        self.get("list jails", &["jails"], &[]).await
    }

    /// One.
    pub async fn jail(&self, name: &str) -> Result<JailView> {
        self.get(&format!("look at jail {name}"), &["jails", name], &[]).await
    }

    /// Makes one.
    pub async fn create_jail(&self, request: &NewJail) -> Result<Lines<JailEvent>> {
        let body = self.request(Method::POST, &["jails"], &[]).json(request);
        self.lines(&format!("create jail {}", request.name), body).await
    }

    /// Changes what one is like.
    pub async fn change_jail(&self, name: &str, request: &ChangeJail) -> Result<JailView> {
        let body = self.request(Method::PATCH, &["jails", name], &[]).json(request);
        self.slow(&format!("change jail {name}"), body).await
    }

    /// Removes one, with its files.
    pub async fn destroy_jail(&self, name: &str, query: &DestroyJail) -> Result<()> {
        let pairs = [("force", yes(query.force))];
        self.done(&format!("destroy jail {name}"), self.request(Method::DELETE, &["jails", name], &pairs)).await
    }

    async fn act<T: serde::Serialize>(&self, name: &str, verb: &str, body: &T) -> Result<Lines<JailEvent>> {
        let request = self.request(Method::POST, &["jails", name, verb], &[]).json(body);
        self.lines(&format!("{verb} jail {name}"), request).await
    }

    /// Starts one, and those it depends on before.
    pub async fn start_jail(&self, name: &str) -> Result<Lines<JailEvent>> {
        self.act(name, "start", &serde_json::json!({})).await
    }

    /// Stops one, and those that depend on it before.
    pub async fn stop_jail(&self, name: &str, request: &StopJail) -> Result<Lines<JailEvent>> {
        self.act(name, "stop", request).await
    }

    /// Stops and starts one.
    pub async fn restart_jail(&self, name: &str) -> Result<Lines<JailEvent>> {
        self.act(name, "restart", &serde_json::json!({})).await
    }

    /// Makes another jail of its files.
    pub async fn clone_jail(&self, name: &str, request: &CloneJail) -> Result<Lines<JailEvent>> {
        self.act(name, "clone", request).await
    }

    /// Gives it another name.
    pub async fn rename_jail(&self, name: &str, request: &RenameJail) -> Result<JailView> {
        self.post(&format!("rename jail {name}"), &["jails", name, "rename"], request).await
    }

    /// Makes it thick.
    pub async fn convert_jail(&self, name: &str) -> Result<Lines<JailEvent>> {
        self.act(name, "convert", &serde_json::json!({})).await
    }

    /// Puts it on another release.
    pub async fn upgrade_jail(&self, name: &str, request: &UpgradeJail) -> Result<Lines<JailEvent>> {
        self.act(name, "upgrade", request).await
    }

    /// Applies a template.
    pub async fn apply_template(&self, name: &str, request: &ApplyTemplate) -> Result<Lines<JailEvent>> {
        self.act(name, "template", request).await
    }

    /// Bounds a resource.
    pub async fn limit_jail(&self, name: &str, request: &JailLimit) -> Result<JailView> {
        self.post(&format!("limit jail {name}"), &["jails", name, "limits"], request).await
    }

    /// Ends limits.
    pub async fn unlimit_jail(&self, name: &str, query: &RemoveLimit) -> Result<JailView> {
        let pairs = [("resource", query.resource.clone())];
        let request = self.request(Method::DELETE, &["jails", name, "limits"], &pairs);
        self.slow(&format!("end limits of jail {name}"), request).await
    }

    /// Shows something inside.
    pub async fn mount_in_jail(&self, name: &str, request: &JailMount) -> Result<JailView> {
        self.post(&format!("mount in jail {name}"), &["jails", name, "mounts"], request).await
    }

    /// No longer shows something inside.
    pub async fn unmount_in_jail(&self, name: &str, query: &RemoveMount) -> Result<JailView> {
        let pairs = [("target", Some(query.target.display().to_string()))];
        let request = self.request(Method::DELETE, &["jails", name, "mounts"], &pairs);
        self.slow(&format!("unmount in jail {name}"), request).await
    }

    /// Leads a port of the host to it.
    pub async fn redirect_to_jail(&self, name: &str, request: &Redirect) -> Result<JailView> {
        self.post(&format!("redirect to jail {name}"), &["jails", name, "redirects"], request).await
    }

    /// No longer does: for one port, or for all.
    pub async fn remove_redirects(&self, name: &str, one: Option<&Redirect>) -> Result<JailView> {
        let pairs = [
            ("protocol", one.map(|redirect| redirect.protocol.as_str().to_owned())),
            ("host_port", one.map(|redirect| redirect.host_port.to_string())),
        ];
        let request = self.request(Method::DELETE, &["jails", name, "redirects"], &pairs);
        self.slow(&format!("end redirects to jail {name}"), request).await
    }

    /// Its snapshots, the oldest first.
    pub async fn jail_snapshots(&self, name: &str) -> Result<JailSnapshots> {
        self.get(&format!("list snapshots of jail {name}"), &["jails", name, "snapshots"], &[]).await
    }

    /// Keeps its files as they are.
    pub async fn snapshot_jail(&self, name: &str, request: &TakeJailSnapshot) -> Result<Lines<JailEvent>> {
        self.act(name, "snapshots", request).await
    }

    /// Makes its files what they were.
    pub async fn roll_jail_back(&self, name: &str, tag: &str) -> Result<Lines<JailEvent>> {
        let request = self.request(Method::POST, &["jails", name, "snapshots", tag, "rollback"], &[]);
        self.lines(&format!("roll jail {name} back to {tag}"), request).await
    }

    /// Removes a snapshot.
    pub async fn delete_jail_snapshot(&self, name: &str, tag: &str) -> Result<()> {
        let request = self.request(Method::DELETE, &["jails", name, "snapshots", tag], &[]);
        self.done(&format!("remove snapshot {tag} of jail {name}"), request).await
    }

    /// The whole jail as an archive.
    pub async fn export_jail(&self, name: &str) -> Result<ExportedJail> {
        let doing = format!("export jail {name}");
        let request = self.request(Method::GET, &["jails", name, "export"], &[]);
        let response = self.send(&doing, request, self.options.slow).await?;
        let called = said(&response, header::CONTENT_DISPOSITION.as_str());
        let called = called.as_deref().and_then(|text| text.split_once("filename=\"")?.1.split_once('"'));
        let (Some((called, _)), Some(sha256)) = (called, said(&response, SHA256_HEADER)) else {
            return Err(Error::new(ErrorKind::Internal, doing, "the answer has neither a name nor a digest"));
        };
        Ok(ExportedJail { name: called.to_owned(), sha256, content: bytes_of(response) })
    }

    /// Makes a jail of an archive.
    pub async fn import_jail(&self, query: &ImportJail, archive: ByteStream) -> Result<Lines<JailEvent>> {
        let name = query.name.as_ref().map(ToString::to_string);
        let pairs = [("name", name), ("sha256", query.sha256.clone()), ("force", yes(query.force))];
        let request = self.request(Method::POST, &["jails", "import"], &pairs);
        self.lines("import a jail", request.body(Body::wrap_stream(archive))).await
    }

    /// What was written on its console.
    pub async fn jail_console(&self, name: &str, query: ReadConsole) -> Result<ByteStream> {
        let pairs = [("tail", query.tail.map(|lines| lines.to_string())), ("follow", yes(query.follow))];
        let request = self.request(Method::GET, &["jails", name, "console"], &pairs);
        Ok(bytes_of(self.send(&format!("read the console of jail {name}"), request, self.options.quick).await?))
    }

    /// All releases.
    pub async fn releases(&self) -> Result<ReleaseList> {
        self.get("list releases", &["releases"], &[]).await
    }

    /// Makes one of an image.
    pub async fn make_release(&self, request: &Bootstrap) -> Result<Lines<JailEvent>> {
        let body = self.request(Method::POST, &["releases"], &[]).json(request);
        self.lines(&format!("make release {}", request.name), body).await
    }

    /// Makes one of an archive.
    pub async fn upload_release(
        &self,
        name: &str,
        query: &UploadRelease,
        archive: ByteStream,
    ) -> Result<Lines<JailEvent>> {
        let pairs = [("format", Some(query.format.clone()))];
        let request = self.request(Method::PUT, &["releases", name], &pairs).body(Body::wrap_stream(archive));
        self.lines(&format!("make release {name}"), request).await
    }

    /// Removes one that no jail needs.
    pub async fn delete_release(&self, name: &str) -> Result<()> {
        self.done(&format!("remove release {name}"), self.request(Method::DELETE, &["releases", name], &[])).await
    }

    /// All templates of jails.
    pub async fn jail_templates(&self) -> Result<JailTemplateList> {
        self.get("list templates of jails", &["jail-templates"], &[]).await
    }

    /// Fetches those of a repository.
    pub async fn fetch_templates(&self, request: &FetchTemplate) -> Result<Lines<JailEvent>> {
        let body = self.request(Method::POST, &["jail-templates"], &[]).json(request);
        self.lines(&format!("fetch templates from {}", request.url), body).await
    }

    /// Brings one as an archive of its directory.
    pub async fn upload_template(&self, name: &TemplateName, archive: ByteStream) -> Result<TemplateView> {
        let request = self.of_template(Method::PUT, name).body(Body::wrap_stream(archive));
        self.slow(&format!("bring template {name}"), request).await
    }

    /// Looks through one.
    pub async fn check_jail_template(&self, name: &TemplateName) -> Result<TemplateCheck> {
        self.slow(&format!("look through template {name}"), self.of_template(Method::GET, name)).await
    }

    /// Removes one.
    pub async fn delete_jail_template(&self, name: &TemplateName) -> Result<()> {
        self.done(&format!("remove template {name}"), self.of_template(Method::DELETE, name)).await
    }

    fn of_template(&self, method: Method, name: &TemplateName) -> reqwest::RequestBuilder {
        let (project, template) = name.as_str().split_once('/').unwrap_or((name.as_str(), ""));
        self.request(method, &["jail-templates", project, template], &[])
    }
}

fn said(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}
