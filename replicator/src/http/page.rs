//! `GET /`: the status page. It is part of the program, loads nothing from elsewhere, and holds no data: its script asks the API, with a token where one is needed.
//! Names of files are text of others: the script never makes elements of text, and the policy would run nothing of them.

use axum::{
    Router,
    http::{
        HeaderName, HeaderValue,
        header::{
            CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
            X_FRAME_OPTIONS,
        },
    },
    routing::get,
};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Where each file is, its type, and its text.
const FILES: [(&str, &str, &str); 9] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/page/style.css", CSS, include_str!("page/style.css")),
    ("/page/main.js", JAVASCRIPT, include_str!("page/main.js")),
    ("/page/api.js", JAVASCRIPT, include_str!("page/api.js")),
    ("/page/dom.js", JAVASCRIPT, include_str!("page/dom.js")),
    ("/page/verdict.js", JAVASCRIPT, include_str!("page/verdict.js")),
    ("/page/nodes.js", JAVASCRIPT, include_str!("page/nodes.js")),
    ("/page/lists.js", JAVASCRIPT, include_str!("page/lists.js")),
    ("/page/plot.js", JAVASCRIPT, include_str!("page/plot.js")),
];

/// Only what came from here is loaded, asked, and run; nobody may frame it, and a form sends nothing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const GUARDS: [(HeaderName, &str); 4] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (X_FRAME_OPTIONS, "DENY"),
];

/// The page and what belongs to it.
pub fn routes() -> Router {
    FILES.into_iter().fold(Router::new(), |routes, (path, kind, text)| {
        let headers: HeaderMap = GUARDS
            .into_iter()
            .chain([(CONTENT_TYPE, kind)])
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect();
        routes.route(path, get(async move || (headers, text)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_is_from_elsewhere_and_no_text_becomes_an_element() {
        for (path, _, text) in FILES {
            // The name of a namespace is no address.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for wrong in ["http:", "https:", "\"//", "'//", "url(", "@import"] {
                assert!(!text.contains(wrong), "{wrong} in {path}");
            }
            for wrong in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage"]
            {
                assert!(!text.contains(wrong), "{wrong} in {path}");
            }
            // The policy forbids them: they would do nothing.
            for wrong in ["style=", " onclick", "<style"] {
                assert!(!text.contains(wrong), "{wrong} in {path}");
            }
        }
    }

    #[test]
    fn every_file_is_used() {
        let all: String = FILES.iter().map(|(_, _, text)| *text).collect();
        for (path, ..) in &FILES[1..] {
            let name = path.rsplit('/').next().expect("a name");
            assert!(all.contains(&format!("/{name}")), "nothing asks for {path}");
        }
    }
}
