//! Whether what is ours below the root is kept from the web: `.mirror` holds removed files, lost conflicts and unfinished ones.

use super::{
    finding::Finding,
    web::{self, is_web},
};
use common::{error_chain, path::OWN_FOLDER};
use std::{fs, path::Path};
use url::Url;

/// Reads `--public-url`: what it is below stands for the root.
pub fn parse_url(text: &str) -> Result<Url, String> {
    let mut url: Url = text.parse().map_err(|error| format!("no URL: {error}"))?;
    if !is_web(&url) {
        return Err("not of the form https://example.org/uploads/".into());
    }
    url.set_query(None);
    url.set_fragment(None);
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

/// What the web answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    pub status: u16,
    /// The redirects, if any, did not lead elsewhere, to a page for logging in, say.
    pub there: bool,
    /// The marker's name is in it.
    pub marker: bool,
}

impl Shown {
    fn is_served(&self) -> bool {
        self.there && (200..300).contains(&self.status)
    }
}

/// What stands under the URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Of `.mirror`.
    pub url: Url,
    /// `.mirror/`, the marker, and a name that nothing has; or why one could not be had.
    pub shown: Result<[Shown; 3], String>,
}

pub async fn look(public: &Url, root: &Path) -> Facts {
    let url = public.join(&format!("{OWN_FOLDER}/")).expect("a relative name");
    let marker = fs::read_to_string(root.join(OWN_FOLDER).join("id")).ok();
    // Without its number, which changes.
    let marker = marker.and_then(|text| text.split(' ').next().map(str::to_owned));
    let nothing = format!("{:032x}", rand::random::<u128>());
    let ask = async |name: &str| {
        let page = web::get(&url.join(name).expect("a relative name")).await;
        let page = page.map_err(|error| error_chain(&error))?;
        let holds = |marker: &String| page.body.windows(marker.len()).any(|part| part == marker.as_bytes());
        let marker = marker.as_ref().filter(|marker| !marker.is_empty()).is_some_and(holds);
        let there = page.url.path().contains(OWN_FOLDER);
        Ok::<_, String>(Shown { status: page.status, there, marker })
    };
    let shown = async { Ok([ask("").await?, ask("id").await?, ask(&nothing).await?]) };
    Facts { shown: shown.await, url }
}

pub fn judge(facts: &Facts) -> Finding {
    let Facts { url, shown } = facts;
    let [folder, marker, nothing] = match shown {
        Ok(shown) => shown,
        Err(error) => {
            return Finding::wrong("public_url", error)
                .why("whether .mirror is served there cannot be told")
                .cure("give --public-url as a visitor types it, from a machine that can reach it");
        }
    };
    let path = url.path().trim_end_matches('/');
    let cure = format!(
        "nginx, in server:  location ^~ {path} {{ return 404; }}\n\
         Apache:            RedirectMatch 404 \"^{}(/|$)\"",
        path.replace('.', "\\.")
    );
    let statuses = format!("{} there, {} for the marker", folder.status, marker.status);
    const WHY: &str = "it holds removed files, lost conflicts, and files that are not finished";
    if marker.marker && marker.is_served() {
        return Finding::wrong("public_url", format!("{url} is served, the marker with it"))
            .why(WHY)
            .cure(cure);
    }
    if folder.is_served() || marker.is_served() {
        if nothing.is_served() {
            // A front controller that has a page for everything; the marker was not in it.
            return Finding::note(
                "public_url",
                format!("{url} answers {} for whatever is asked", nothing.status),
            )
            .why("the marker is not in it, but whether files of .mirror are served cannot be told")
            .cure(cure);
        }
        return Finding::wrong("public_url", format!("{url} is served: {statuses}")).why(WHY).cure(cure);
    }
    if folder.status >= 500 || marker.status >= 500 {
        return Finding::note("public_url", format!("{url} fails: {statuses}"))
            .why("a server that fails does not tell whether it would serve it");
    }
    Finding::ok("public_url", format!("{url} is not served: {statuses}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Verdict::{Note, Ok, Wrong};

    #[test]
    fn a_public_url_stands_for_the_root() {
        for (text, url) in [
            ("https://example.org", Some("https://example.org/")),
            ("http://example.org/up?x=y#z", Some("http://example.org/up/")),
            ("https://[::1]:8443/up/", Some("https://[::1]:8443/up/")),
            ("ftp://example.org/", None),
            ("example.org", None),
            ("file:///srv", None),
        ] {
            let found = parse_url(text);
            assert_eq!(found.as_ref().ok().map(Url::as_str), url, "{text}: {found:?}");
        }
    }

    #[test]
    fn only_what_is_served_below_mirror_is_wrong() {
        let shown = |status| Shown { status, there: true, marker: false };
        let login = Shown { there: false, ..shown(200) };
        let bytes = Shown { marker: true, ..shown(200) };
        for (shown, verdict) in [
            ([shown(404), shown(404), shown(404)], Ok),
            ([shown(403), shown(401), shown(404)], Ok),
            ([shown(200), shown(404), shown(404)], Wrong),
            ([shown(403), shown(200), shown(404)], Wrong),
            ([shown(404), bytes.clone(), shown(404)], Wrong),
            ([shown(200), bytes, shown(200)], Wrong),
            ([shown(200), shown(200), shown(200)], Note),
            ([login.clone(), login.clone(), login], Ok),
            ([shown(502), shown(502), shown(502)], Note),
        ] {
            let url = "https://example.org/up/.mirror/".parse().expect("a URL");
            let finding = judge(&Facts { url, shown: Result::Ok(shown.clone()) });
            assert_eq!(finding.verdict, verdict, "{shown:?}: {finding}");
            let cured = finding.cure.is_none_or(|cure| cure.contains("location ^~ /up/.mirror {"));
            assert!(cured, "{shown:?}");
        }
    }
}
