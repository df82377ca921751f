//! `PUT /api/v1/files/{sha256}`: a file by its hash, and with `?path=` for its place in the tree.

use super::{
    Api, Refused,
    body::{Incoming, Received, Store, receive},
};
use crate::{
    direct::{Direct, Done},
    node::Node,
    upload,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Request, State},
    http::{
        HeaderMap, StatusCode, Uri,
        header::{CONTENT_LENGTH, HeaderName, IF_MATCH, IF_NONE_MATCH},
    },
    response::{IntoResponse, Response},
};
use common::{
    blobs::{BlobStore, Blobs, GRACE},
    event::Version,
    hash::ContentHash,
    http::{
        ASK_AGAIN, Problem, Query, Scope,
        openapi::{Access, Content, Operation, Verb, schemas},
        refused,
    },
    log::JetStreamLog,
    path::MediaPath,
    settings::parse_duration,
    time::Timestamp,
    wait::{self, Enough, Outcome, Wanted, What},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// How long the client says that its file is.
const FILE_SIZE: HeaderName = HeaderName::from_static("x-file-size");
/// As long as proxies wait for an answer.
const LONGEST: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Debug)]
struct Asked {
    name: ContentHash,
    path: Option<MediaPath>,
    wait: Option<(Enough, Duration)>,
    size: Option<u64>,
    only_new: bool,
}

/// What came of it.
struct Kept {
    done: Done,
    /// When what no path names may be collected.
    expires: Option<Timestamp>,
}

pub fn operation() -> Operation {
    let [(have, nodes), (missing, without)] = schemas::have_and_missing();
    let mut done = schemas::object(json!({
        "created": { "type": "boolean" }, "version": schemas::or_null(schemas::count()),
    }));
    done["properties"]["expires"] = schemas::or_null(schemas::time());
    (done["properties"][have], done["properties"][missing]) = (nodes, without);
    let size = json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX });
    let path = "/api/v1/files/{sha256}";
    Operation::new("upload", Verb::Put, path, Access::Scope(Scope::Write), "Takes a file")
        .path("sha256", schemas::sha256(), "What its content hashes to")
        .query("path", schemas::path(), "Its place in the tree; without, only the blob is stored")
        .query("wait", schemas::enough(), "Answer when it is on as many nodes; goes with `path`")
        .query("timeout", schemas::timeout(), "How long to wait for that; goes with `wait`")
        .header("X-File-Size", size, "How many bytes there are in the body")
        .header("If-None-Match", json!({ "const": "*" }), "Only where there is no file; goes with `path`")
        .takes("application/octet-stream", json!({}))
        .answer(
            200,
            "It is in the log and on this node's disk; `created` is false when it was before",
            Content::Json(done),
        )
        .refuses(408, "The body came too slowly")
        .refuses(409, "Others have changed the path, or something is in its way")
        .refuses(412, "There is a file, and `If-None-Match: *` was asked for")
        .refuses(413, "Over the limit of `--max-upload`")
        .refuses(422, "It hashes to something else")
        .refuses(504, "The upload is done, and not on as many nodes in time; with the fields of the answer")
        .refuses(507, "There is no room, here or in the broker")
}

pub async fn answer(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let asked = asked(&name, request.uri(), request.headers())?;
    if asked.size.is_some_and(|size| size > api.most) {
        return Err(Refused::TooLarge(api.most).into());
    }
    let (node, _) = api.working()?;
    if let Some(path) = &asked.path
        && node.rules().covers_file(path.as_path())
    {
        return Err(refused("path", "an ignore rule covers it"));
    }
    let crowded = |_| Problem::passing("too many requests wait for other nodes", ASK_AGAIN);
    let wait = asked.wait.map(|_| Arc::clone(&api.waits).try_acquire_owned().map_err(crowded)).transpose()?;
    let place = api.place().await?;
    // A client that goes away does not leave anything half done.
    let task = tokio::spawn(async move {
        let kept = take(&api, &asked, request.into_body()).await;
        drop(place);
        let kept = kept?;
        if let (Some(vitals), true) = (api.vitals.get(), kept.done.created && asked.path.is_some()) {
            vitals.metrics.published();
        }
        let answer = said(&api, &asked, &kept).await;
        drop(wait);
        answer
    });
    match task.await {
        Ok(answer) => answer,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// What can be said of a request before its body is looked at.
fn asked(name: &str, uri: &Uri, headers: &HeaderMap) -> Result<Asked, Problem> {
    let name =
        name.parse().map_err(|error: common::hash::InvalidHash| refused("sha256", &error.to_string()))?;
    let query = Query::of(uri, &["path", "wait", "timeout"])?;
    let path = query.bytes("path").map(MediaPath::new).transpose();
    let path = path.map_err(|error| refused("path", &error.to_string()))?;
    let (enough, timeout) = (query.get::<Enough>("wait")?, query.get_by("timeout", parse_duration)?);
    if enough.is_some() && path.is_none() {
        return Err(refused("wait", "without path: what has no place in the tree is on no node"));
    }
    if timeout.is_some() && enough.is_none() {
        return Err(refused("timeout", "without wait"));
    }
    let timeout = timeout.unwrap_or(wait::USUAL);
    if timeout > LONGEST {
        return Err(refused("timeout", &format!("over {} s", LONGEST.as_secs())));
    }
    let only_new = match headers.get(IF_NONE_MATCH).map(|value| value.as_bytes()) {
        None => false,
        Some(b"*") if path.is_some() => true,
        Some(_) => return Err(bad("If-None-Match can only be *, and goes with a path")),
    };
    if headers.contains_key(IF_MATCH) {
        return Err(bad("If-Match is not known here"));
    }
    let (said, length) = (number(headers, FILE_SIZE)?, number(headers, CONTENT_LENGTH)?);
    if let (Some(said), Some(length)) = (said, length)
        && said != length
    {
        return Err(bad("X-File-Size and Content-Length differ"));
    }
    let wait = enough.map(|enough| (enough, timeout));
    Ok(Asked { name, path, wait, size: said.or(length), only_new })
}

fn bad(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

fn number(headers: &HeaderMap, name: HeaderName) -> Result<Option<u64>, Problem> {
    let mut values = headers.get_all(&name).into_iter();
    let number = match values.next() {
        None => return Ok(None),
        Some(value) => value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())),
    };
    let number = number.and_then(|text| text.parse().ok()).filter(|_| values.next().is_none());
    number.map(Some).ok_or_else(|| bad(&format!("{name} is not one number of bytes")))
}

async fn take(api: &Api, asked: &Asked, body: Body) -> Result<Kept, Problem> {
    let name = asked.name;
    let Some(path) = &asked.path else {
        let (node, _) = api.working()?;
        let received = bring(api, &node, asked, body, true).await?;
        let named = node.index.paths_with(name).map_err(|error| Refused::Direct(error.into()))?;
        let until = Timestamp::from_nanos(Timestamp::now().nanos() + GRACE.as_nanos() as i128);
        let done = Done { created: received.is_new, version: None };
        return Ok(Kept { done, expires: named.is_empty().then_some(until) });
    };
    let (node, session) = api.working()?;
    let stored_in = node.blobs.generation();
    let direct = Direct { node: &node, session: &session, path };
    let is_needed = direct.foresee(name, asked.only_new).await.map_err(Refused::Direct)?;
    let received = bring(api, &node, asked, body, is_needed).await?;
    let _turn = api.turn(&node, path).await?;
    // It may have taken hours.
    let (node, session) = api.working()?;
    let direct = Direct { node: &node, session: &session, path };
    let done = direct.put(name, received.spooled, asked.only_new).await.map_err(Refused::Direct)?;
    upload::look_again(&node, name, stored_in).await;
    Ok(Kept { done, expires: None })
}

/// Receives the file, into the store and, where it has a path, onto the disk. What is there already is only checked.
async fn bring(
    api: &Api,
    node: &Node<JetStreamLog, Blobs>,
    asked: &Asked,
    body: Body,
    is_needed: bool,
) -> Result<Received, Refused> {
    // Where blobs are moving, what only the store before has is stored again.
    let known = node.blobs.current().contains(&[asked.name]).await.map_err(Refused::Store)?.contains(&true);
    let store = match (is_needed, known) {
        (false, _) => Store::Leave,
        (true, true) => Store::Touch,
        (true, false) => Store::Put,
    };
    let incoming = Incoming {
        root: &node.root,
        space: &node.space,
        blobs: &node.blobs,
        limit: &node.upload_limit,
        naming: &api.naming,
        stop: &api.stop,
        name: asked.name,
        size: asked.size,
        most: api.most,
        spool: is_needed && asked.path.is_some(),
        store,
    };
    receive(&incoming, body).await
}

/// The answer, once the file is on as many nodes as was asked for, or time is up.
async fn said(api: &Api, asked: &Asked, kept: &Kept) -> Result<Response, Problem> {
    let Done { created, version } = kept.done;
    let mut answer = json!({ "created": created, "version": version });
    if asked.path.is_none() {
        answer["expires"] = json!(kept.expires);
    }
    let (Some((enough, timeout)), Some(version)) = (asked.wait, version) else {
        return Ok(Json(answer).into_response());
    };
    match waited(api, version, enough, timeout).await {
        Ok((fields, None)) => {
            fields.into_iter().for_each(|(name, value)| answer[name] = value);
            Ok(Json(answer).into_response())
        }
        Ok((fields, Some(why))) => {
            let detail = format!("the upload is done; {why}");
            let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, detail)
                .with("created", json!(created))
                .with("version", json!(version));
            Err(fields.into_iter().fold(problem, |problem, (name, value)| problem.with(&name, value)))
        }
        Err(why) => {
            let detail = format!("the upload is done; where it is by now is not known: {why}");
            let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, detail);
            Err(problem.with("created", json!(created)).with("version", json!(version)))
        }
    }
}

/// Who has it and who has not, and, where that is not enough, why it is no longer waited for.
async fn waited(
    api: &Api,
    version: Version,
    enough: Enough,
    timeout: Duration,
) -> Result<(Vec<(String, Value)>, Option<&'static str>), String> {
    let sightings = api.sightings.get().ok_or("the nodes are not known yet")?;
    let wanted = Wanted { what: What::Version(version), enough, timeout };
    let answer = tokio::select! {
        answer = wait::wait(sightings, &wanted) => answer.map_err(|error| common::error_chain(&error))?,
        () = api.stop.cancelled() => return Err("the process ends".into()),
    };
    let Value::Object(fields) = answer.json() else { unreachable!("an answer is an object") };
    let fields = fields.into_iter().filter(|(name, _)| name != "version").collect();
    Ok((
        fields,
        match answer.outcome {
            Outcome::There => None,
            Outcome::NotYet => Some("it is not on as many nodes yet"),
            Outcome::Parked => Some("it cannot be applied on a node where it is needed"),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str, fields: &[(&'static str, &str)]) -> Result<Asked, Problem> {
        let name = ContentHash::of_nothing().to_string();
        let mut headers = HeaderMap::new();
        for (field, value) in fields {
            headers.append(*field, value.parse().expect("a value"));
        }
        asked(&name, &format!("/api/v1/files/{name}?{query}").parse().expect("a URI"), &headers)
    }

    #[test]
    fn a_file_is_asked_for_by_its_path_as_forms_write_it() {
        let plain = parse("", &[]).expect("a request");
        assert!(plain.path.is_none() && plain.wait.is_none() && plain.size.is_none() && !plain.only_new);
        let fields = [("x-file-size", "7"), ("content-length", "7"), ("if-none-match", "*")];
        let full = parse("path=a%2Fb+%ff&wait=all&timeout=3s", &fields).expect("a request");
        assert_eq!(full.path.as_ref().map(MediaPath::as_bytes), Some(&b"a/b \xff"[..]));
        assert_eq!(full.wait, Some((Enough::All, Duration::from_secs(3))));
        assert_eq!((full.size, full.only_new), (Some(7), true));
        let usual = parse("path=a&wait=2", &[("content-length", "0")]).expect("a request");
        assert_eq!((usual.wait, usual.size), (Some((Enough::Nodes(2), wait::USUAL)), Some(0)));
    }

    #[test]
    fn what_cannot_be_is_refused_before_the_body_is_looked_at() {
        for query in [
            "path=",
            "path=/a",
            "path=..%2fa",
            "path=a%2f..%2fb",
            "path=a%00b",
            "path=.mirror/tmp/x",
            "path=a//b",
            "path=a&path=b",
            "wait=all",
            "path=a&wait=0",
            "path=a&wait=some",
            "timeout=1s",
            "path=a&timeout=1s",
            "path=a&wait=1&timeout=61s",
            "pfad=a",
            "path=%",
        ] {
            assert!(parse(query, &[]).is_err(), "{query}");
        }
        for fields in [
            &[("x-file-size", "")][..],
            &[("x-file-size", "-1")],
            &[("x-file-size", "+1")],
            &[("x-file-size", "1 1")],
            &[("x-file-size", "1"), ("x-file-size", "1")],
            &[("x-file-size", "1"), ("content-length", "2")],
            &[("x-file-size", "99999999999999999999")],
            &[("if-none-match", "\"x\"")],
            &[("if-match", "*")],
        ] {
            assert!(parse("path=a", fields).is_err(), "{fields:?}");
        }
        assert!(parse("", &[("if-none-match", "*")]).is_err());
        for name in ["", "x", &"A".repeat(64)] {
            assert!(asked(name, &Uri::from_static("/"), &HeaderMap::new()).is_err(), "{name}");
        }
    }
}
