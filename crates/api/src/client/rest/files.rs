//! Files in a sandbox. Bytes and archives travel as they are, in pieces, whatever their length.

use reqwest::{Body, Method, RequestBuilder};

use super::{ByteStream, Lines, RestClient, Result, bytes_of};
use crate::rest::file::{File, FileEvent, FileList, FileQuery, MakeDirectory, MoveFile, Uploaded};

impl RestClient {
    fn file(&self, method: Method, id: &str, verb: Option<&str>, query: &FileQuery) -> RequestBuilder {
        let pairs = [
            ("path", Some(query.path.clone())),
            ("user", query.user.clone()),
            ("depth", query.depth.map(|n| n.to_string())),
            ("recursive", query.recursive.map(|yes| yes.to_string())),
            ("mode", query.mode.clone()),
            ("offset", query.offset.map(|n| n.to_string())),
            ("length", query.length.map(|n| n.to_string())),
        ];
        let path: Vec<&str> = ["sandboxes", id, "files"].into_iter().chain(verb).collect();
        self.request(method, &path, &pairs)
    }

    /// What is at a path.
    pub async fn stat(&self, id: &str, query: &FileQuery) -> Result<File> {
        let request = self.file(Method::GET, id, Some("stat"), query);
        self.quick(&format!("look at {id}:{}", query.path), request).await
    }

    /// What a directory holds.
    pub async fn list_files(&self, id: &str, query: &FileQuery) -> Result<FileList> {
        let request = self.file(Method::GET, id, Some("list"), query);
        self.slow(&format!("list {id}:{}", query.path), request).await
    }

    /// Content of a file.
    pub async fn read_file(&self, id: &str, query: &FileQuery) -> Result<ByteStream> {
        let request = self.file(Method::GET, id, None, query);
        Ok(bytes_of(self.send(&format!("read {id}:{}", query.path), request, self.options.quick).await?))
    }

    /// Writes a file, whole or not at all.
    pub async fn write_file(&self, id: &str, query: &FileQuery, content: ByteStream) -> Result<Uploaded> {
        let request = self.file(Method::PUT, id, None, query).body(Body::wrap_stream(content));
        self.slow(&format!("write {id}:{}", query.path), request).await
    }

    /// Removes.
    pub async fn remove_file(&self, id: &str, query: &FileQuery) -> Result<()> {
        let request = self.file(Method::DELETE, id, None, query);
        self.done(&format!("remove {id}:{}", query.path), request).await
    }

    /// Makes a directory and its parents.
    pub async fn make_directory(&self, id: &str, request: &MakeDirectory) -> Result<()> {
        let body = self.request(Method::POST, &["sandboxes", id, "files", "mkdir"], &[]).json(request);
        self.done(&format!("make directory {id}:{}", request.path), body).await
    }

    /// Renames.
    pub async fn move_file(&self, id: &str, request: &MoveFile) -> Result<()> {
        let body = self.request(Method::POST, &["sandboxes", id, "files", "move"], &[]).json(request);
        self.done(&format!("move {id}:{}", request.from), body).await
    }

    /// Changes at a path, as they happen.
    pub async fn watch(&self, id: &str, query: &FileQuery) -> Result<Lines<FileEvent>> {
        let request = self.file(Method::GET, id, Some("watch"), query);
        self.lines(&format!("watch {id}:{}", query.path), request).await
    }

    /// A directory, or one file, as a tar archive.
    pub async fn read_tar(&self, id: &str, query: &FileQuery) -> Result<ByteStream> {
        let request = self.file(Method::GET, id, Some("tar"), query);
        Ok(bytes_of(self.send(&format!("read {id}:{}", query.path), request, self.options.quick).await?))
    }

    /// Unpacks a tar archive into a directory.
    pub async fn write_tar(&self, id: &str, query: &FileQuery, archive: ByteStream) -> Result<Uploaded> {
        let request = self.file(Method::PUT, id, Some("tar"), query).body(Body::wrap_stream(archive));
        self.slow(&format!("unpack into {id}:{}", query.path), request).await
    }
}
