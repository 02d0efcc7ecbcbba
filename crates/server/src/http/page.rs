//! The chat page, the page of activity and the client module, embedded in the binary.
//!
//! The content security policy allows requests to this server only, and forbids inline scripts and
//! markup made from strings. Text that a model writes therefore stays text.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use super::resource::resource;

/// One embedded file.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! assets {
    ($($path:literal, $content_type:expr, $file:literal;)*) => {
        &[$(Asset { path: $path, content_type: $content_type, bytes: include_bytes!(concat!("../../", $file)) },)*]
    };
}

const ASSETS: &[Asset] = assets![
    "/", HTML, "page/index.html";
    "/activity", HTML, "page/activity.html";
    "/page/activity.css", "text/css; charset=utf-8", "page/activity.css";
    "/page/activity.js", SCRIPT, "page/activity.js";
    "/page/activity_feed.js", SCRIPT, "page/activity_feed.js";
    "/page/activity_log.js", SCRIPT, "page/activity_log.js";
    "/page/announcer.js", SCRIPT, "page/announcer.js";
    "/page/conversation.js", SCRIPT, "page/conversation.js";
    "/page/conversation_list.js", SCRIPT, "page/conversation_list.js";
    "/page/conversation_store.js", SCRIPT, "page/conversation_store.js";
    "/page/element.js", SCRIPT, "page/element.js";
    "/page/icon.svg", "image/svg+xml", "page/icon.svg";
    "/page/inline.js", SCRIPT, "page/inline.js";
    "/page/kept.js", SCRIPT, "page/kept.js";
    "/page/key.js", SCRIPT, "page/key.js";
    "/page/markdown.js", SCRIPT, "page/markdown.js";
    "/page/meter.js", SCRIPT, "page/meter.js";
    "/page/page.css", "text/css; charset=utf-8", "page/page.css";
    "/page/page.js", SCRIPT, "page/page.js";
    "/page/past.js", SCRIPT, "page/past.js";
    "/page/pictures.js", SCRIPT, "page/pictures.js";
    "/page/plot.js", SCRIPT, "page/plot.js";
    "/page/theme.js", SCRIPT, "page/theme.js";
    "/page/theme_switch.js", SCRIPT, "page/theme_switch.js";
    "/page/tool_calls.js", SCRIPT, "page/tool_calls.js";
    "/page/turn.js", SCRIPT, "page/turn.js";
    "/page/words.js", SCRIPT, "page/words.js";
    "/tokenwire.d.ts", "text/plain; charset=utf-8", "client/tokenwire.d.ts";
    "/tokenwire.js", SCRIPT, "client/tokenwire.js";
];

/// `'self'` includes the WebSocket of this origin.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Registers every file under its path.
pub(super) fn configure(app: &mut web::ServiceConfig) {
    for asset in ASSETS {
        app.service(
            resource(asset.path, "GET, HEAD")
                .route(web::get().to(serve))
                .route(web::head().to(serve)),
        );
    }
}

async fn serve(request: HttpRequest) -> HttpResponse {
    match ASSETS.iter().find(|asset| asset.path == request.path()) {
        Some(asset) => answer(&request, asset),
        None => HttpResponse::NotFound().finish(),
    }
}

fn answer(request: &HttpRequest, asset: &Asset) -> HttpResponse {
    let tag = tag(asset.bytes);
    let known = request
        .headers()
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    let is_known = known.is_some_and(|known| {
        known
            .split(',')
            .any(|known| known.trim().trim_start_matches("W/") == tag)
    });
    let mut response = if is_known {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    // The browser asks every time and gets 304 while the binary is the same. A new page therefore
    // never loads an old module.
    response
        .insert_header((header::ETAG, tag))
        .insert_header((header::CACHE_CONTROL, "no-cache"));
    if is_known {
        return response.finish();
    }
    response
        .content_type(asset.content_type)
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header(("cross-origin-opener-policy", "same-origin"))
        .body(asset.bytes)
}

/// Returns an ETag made from the content. The hasher's keys are fixed, so all nodes of one version
/// give the same.
fn tag(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::StatusCode;
    use actix_web::{App, test as service};

    async fn get(path: &str, known: Option<&str>) -> actix_web::dev::ServiceResponse {
        let app = service::init_service(App::new().configure(configure)).await;
        let mut request = service::TestRequest::get().uri(path);
        if let Some(known) = known {
            request = request.insert_header((header::IF_NONE_MATCH, known));
        }
        service::call_service(&app, request.to_request()).await
    }

    fn header_of<'a>(response: &'a actix_web::dev::ServiceResponse, name: &str) -> &'a str {
        response.headers().get(name).unwrap().to_str().unwrap()
    }

    #[actix_web::test]
    async fn every_asset_is_served_with_its_type_and_policy() {
        for asset in ASSETS {
            let response = get(asset.path, None).await;
            assert_eq!(response.status(), StatusCode::OK, "{}", asset.path);
            assert_eq!(header_of(&response, "content-type"), asset.content_type);
            assert_eq!(header_of(&response, "content-security-policy"), POLICY);
            assert_eq!(header_of(&response, "x-content-type-options"), "nosniff");
            assert_eq!(header_of(&response, "referrer-policy"), "no-referrer");
            assert_eq!(service::read_body(response).await, asset.bytes);
        }
    }

    #[actix_web::test]
    async fn matching_etag_returns_not_modified() {
        let tag = header_of(&get("/", None).await, "etag").to_owned();
        for known in [tag.clone(), format!("\"other\", W/{tag}")] {
            assert_eq!(
                get("/", Some(&known)).await.status(),
                StatusCode::NOT_MODIFIED,
                "{known}"
            );
        }
        assert_eq!(get("/", Some("\"other\"")).await.status(), StatusCode::OK);
    }

    #[test]
    fn assets_load_nothing_from_elsewhere_and_inline_nothing() {
        for asset in ASSETS
            .iter()
            .filter(|asset| asset.path != "/tokenwire.d.ts")
        {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            for (at, _) in text.match_indices("://") {
                let around = &text[at.saturating_sub(5)..(at + 40).min(text.len())];
                // A namespace, the module's default address and link patterns cause no requests.
                let is_harmless = [
                    "http://www.w3.org/",
                    "http://localhost:3000",
                    "https?:\\/\\/",
                    "://)",
                ]
                .iter()
                .any(|known| around.contains(known));
                assert!(is_harmless, "{}: {around}", asset.path);
            }
            if asset.content_type == HTML {
                for inline in ["<style", " style=", " onclick=", "javascript:"] {
                    assert!(!text.contains(inline), "{}: {inline}", asset.path);
                }
                assert_eq!(
                    text.matches("<script").count(),
                    text.matches("<script src=").count()
                        + text.matches("<script type=\"module\" src=").count()
                );
            }
            if asset.content_type == SCRIPT {
                for sink in [
                    "innerHTML",
                    "outerHTML",
                    "insertAdjacentHTML",
                    "document.write",
                    "eval(",
                    "new Function",
                ] {
                    assert!(!text.contains(sink), "{}: {sink}", asset.path);
                }
            }
        }
    }
}
