//! Uploads in parts that were broken off: a bucket keeps their parts, and bills for them, until somebody ends them. The library cannot list them, so S3 is asked by a request
//! of our own (ListMultipartUploads), which the library signs.

use super::fault::{bounded, fault, slow};
use crate::{
    blobs::{BlobError, Orphan, StoreFault},
    time::Timestamp,
};
use object_store::{
    aws::AmazonS3,
    multipart::MultipartStore,
    path::Path,
    signer::{SignedUrlOptions, Signer},
};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::timeout;

/// For a thousand names.
const LIST: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(10);

/// What S3 answers, as far as it matters here.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default, rename = "Upload")]
    uploads: Vec<Upload>,
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    upload_id: String,
    initiated: Timestamp,
}

/// Those below `prefix` that began before some time.
pub async fn broken(s3: &AmazonS3, prefix: &Path, before: Timestamp) -> Result<Vec<Orphan>, BlobError> {
    let (mut found, mut after) = (Vec::new(), (String::new(), String::new()));
    let http = reqwest::Client::new();
    loop {
        let answer = match timeout(LIST, page(s3, &http, prefix, &after)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(slow(doing(), LIST)),
        };
        let old = answer.uploads.into_iter().filter(|upload| upload.initiated < before);
        found.extend(old.map(|upload| Orphan::upload(upload.key, upload.upload_id)));
        if !answer.is_truncated || answer.next_key_marker.is_empty() {
            return Ok(found);
        }
        after = (answer.next_key_marker, answer.next_upload_id_marker);
    }
}

async fn page(
    s3: &AmazonS3,
    http: &reqwest::Client,
    prefix: &Path,
    (key, id): &(String, String),
) -> Result<Answer, BlobError> {
    let prefix = format!("{prefix}/");
    let mut query = vec![("uploads", ""), ("prefix", prefix.as_str())];
    if !key.is_empty() {
        query.extend([("key-marker", key.as_str()), ("upload-id-marker", id.as_str())]);
    }
    let options = SignedUrlOptions::new().with_query(query);
    let url = s3.signed_url_opts(reqwest::Method::GET, &Path::default(), LIST, &options).await;
    let url = url.map_err(|error| fault(doing(), &error))?;
    let asked = async { http.get(url).send().await?.error_for_status()?.text().await };
    // What names the request has the signature in it.
    let text = asked.await.map_err(|error| refused(error.without_url().to_string()))?;
    quick_xml::de::from_str(&text).map_err(|error| refused(error.to_string()))
}

/// Ends one. False: somebody has done so already.
pub async fn end(s3: &AmazonS3, key: &str, id: &str) -> Result<bool, BlobError> {
    let doing = || format!("ending the upload of {key}");
    let path = Path::parse(key).map_err(|error| fault(doing(), &error.into()))?;
    match bounded(END, doing, s3.abort_multipart(&path, &id.to_owned())).await {
        Err(BlobError::Store { fault: StoreFault::Absent, .. }) => Ok(false),
        ended => ended.map(|()| true),
    }
}

fn doing() -> String {
    "looking for broken uploads".into()
}

fn refused(reason: String) -> BlobError {
    BlobError::Store { doing: doing(), reason, fault: StoreFault::Refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_s3_is_read() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>b</Bucket><KeyMarker/><UploadIdMarker/>
            <NextKeyMarker>p/k2</NextKeyMarker><NextUploadIdMarker>2</NextUploadIdMarker><MaxUploads>2</MaxUploads><IsTruncated>true</IsTruncated>
            <Upload><Key>p/k1</Key><UploadId>1</UploadId><StorageClass>STANDARD</StorageClass><Initiated>2026-02-16T16:44:02.000Z</Initiated></Upload>
            <Upload><Key>p/k2</Key><UploadId>2</UploadId><Initiated>2026-02-16T16:44:03Z</Initiated></Upload></ListMultipartUploadsResult>"#;
        let answer: Answer = quick_xml::de::from_str(text).expect("an answer");
        assert!(answer.is_truncated);
        assert_eq!((answer.next_key_marker.as_str(), answer.uploads.len()), ("p/k2", 2));
        assert!(answer.uploads[0].initiated < answer.uploads[1].initiated);
        let none: Answer = quick_xml::de::from_str(
            "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>",
        )
        .expect("an answer");
        assert!(none.uploads.is_empty() && !none.is_truncated);
    }
}
