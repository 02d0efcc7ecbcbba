//! What the API takes back: item ids and encrypted content, judged as api.openai.com does.
//!
//! Nothing is stored. Encrypted content names its item and a digest of item and account, so that a
//! simulator recognises what it, or another one, has made for the same account.

use serde_json::Value;

use crate::error::ApiError;
use crate::steering::Encrypted;

/// What encrypted content begins with, as at OpenAI.
const PREFIX: &str = "gAAAAA";

/// Returns the encrypted content of the item with this id, for this account.
pub(crate) fn encrypt(id: &str, account: &str) -> String {
    format!("{PREFIX}{id}.{:016x}", digest(id, account))
}

/// Whether encrypted reasoning is asked for.
pub(crate) fn wants_encrypted(request: &Value) -> bool {
    let include = request["include"].as_array();
    include.is_some_and(|include| include.iter().any(|v| v == "reasoning.encrypted_content"))
}

/// Checks the items of a request of this account.
pub(crate) fn check(
    request: &Value,
    account: &str,
    mode: Option<Encrypted>,
) -> Result<(), ApiError> {
    if mode == Some(Encrypted::Unsupported) && wants_encrypted(request) {
        return Err(ApiError::encrypted_unsupported());
    }
    let stored = request["store"] != Value::Bool(false);
    for item in request["input"].as_array().into_iter().flatten() {
        let id = item["id"].as_str().unwrap_or_default();
        if let Some(content) = item["encrypted_content"].as_str() {
            if mode == Some(Encrypted::Refuse) || !is_own(content, item["id"].as_str(), account) {
                return Err(ApiError::invalid_encrypted(id));
            }
            continue;
        }
        let reference =
            item["type"] == "item_reference" || (item["type"].is_null() && item["role"].is_null());
        if !stored && (reference || id.starts_with("rs_") || id.starts_with("msg_")) {
            return Err(ApiError::item_not_found(id));
        }
    }
    check_outputs(request)
}

/// Refuses outputs of calls that are not part of the conversation.
fn check_outputs(request: &Value) -> Result<(), ApiError> {
    let items = request["input"].as_array().map_or(&[][..], Vec::as_slice);
    let refers = |item: &Value| item["type"] == "item_reference";
    if request["previous_response_id"].is_string() || items.iter().any(refers) {
        return Ok(());
    }
    let is = |item: &Value, kinds: [&str; 2]| {
        item["type"]
            .as_str()
            .is_some_and(|kind| kinds.contains(&kind))
    };
    let orphan = items.iter().find(|item| {
        is(item, ["function_call_output", "custom_tool_call_output"])
            && !items.iter().any(|call| {
                is(call, ["function_call", "custom_tool_call"])
                    && call["call_id"] == item["call_id"]
            })
    });
    match orphan {
        Some(output) => Err(ApiError::output_without_call(
            output["call_id"].as_str().unwrap_or_default(),
        )),
        None => Ok(()),
    }
}

/// Whether the content was made for this item and account. Clients may leave the id out.
fn is_own(content: &str, id: Option<&str>, account: &str) -> bool {
    let parts = content
        .strip_prefix(PREFIX)
        .and_then(|text| text.rsplit_once('.'));
    parts.is_some_and(|(made, hex)| {
        id.is_none_or(|id| id == made) && hex == format!("{:016x}", digest(made, account))
    })
}

/// FNV-1a.
fn digest(id: &str, account: &str) -> u64 {
    let bytes = id.bytes().chain([0]).chain(account.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn code(request: &Value) -> Option<(u16, Option<&'static str>)> {
        let error = check(request, "Bearer a", None).err()?;
        Some((error.status, error.code))
    }

    #[test]
    fn ids_of_items_that_are_not_stored_are_unknown() {
        for item in [
            json!({"type": "reasoning", "id": "rs_1", "summary": []}),
            json!({"type": "message", "id": "msg_1", "role": "assistant", "content": []}),
            json!({"type": "item_reference", "id": "fc_1"}),
            json!({"id": "msg_1"}),
        ] {
            let request = json!({"store": false, "input": [item]});
            assert_eq!(code(&request), Some((404, None)), "{request}");
            let request = json!({"input": request["input"]});
            assert_eq!(code(&request), None, "{request}");
        }
        let call = json!({"type": "function_call", "id": "fc_1", "call_id": "c"});
        assert_eq!(code(&json!({"store": false, "input": [call]})), None);
    }

    #[test]
    fn encrypted_content_belongs_to_item_and_account() {
        let content = encrypt("rs_1", "Bearer a");
        let item = |id: &str, content: &str| json!({"store": false, "input": [{"type": "reasoning", "id": id, "summary": [], "encrypted_content": content}]});
        assert_eq!(code(&item("rs_1", &content)), None);
        let refused = Some((400, Some("invalid_encrypted_content")));
        assert_eq!(code(&item("rs_2", &content)), refused);
        assert_eq!(code(&item("rs_1", &encrypt("rs_1", "Bearer b"))), refused);
        assert_eq!(code(&item("rs_1", "else")), refused);
        let mut without = item("", &content);
        without["input"][0].as_object_mut().unwrap().remove("id");
        assert_eq!(code(&without), None);
    }
}
