//! Log probabilities in the shape of the Responses API.

use serde_json::value::RawValue;

/// Returns log probabilities in the Responses shape, which always has bytes and alternatives.
pub(crate) fn complete_logprobs(raw: &RawValue) -> String {
    let mut tokens: Vec<serde_json::Value> = serde_json::from_str(raw.get()).unwrap_or_default();
    let complete = |token: &mut serde_json::Value| {
        let bytes = token
            .get("token")
            .and_then(|text| text.as_str())
            .unwrap_or_default()
            .as_bytes()
            .to_vec();
        if let Some(object) = token.as_object_mut()
            && !object.get("bytes").is_some_and(serde_json::Value::is_array)
        {
            object.insert("bytes".to_owned(), bytes.into());
        }
    };
    for token in &mut tokens {
        complete(token);
        if let Some(object) = token.as_object_mut() {
            let alternatives = object
                .entry("top_logprobs")
                .or_insert_with(|| serde_json::json!([]));
            match alternatives.as_array_mut() {
                Some(list) => list.iter_mut().for_each(complete),
                None => *alternatives = serde_json::json!([]),
            }
        }
    }
    serde_json::to_string(&tokens).unwrap_or_else(|_| "[]".to_owned())
}
