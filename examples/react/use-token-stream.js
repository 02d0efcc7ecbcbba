// A hook around the client module. Its state is one answer at a time.
import { useCallback, useEffect, useRef, useState } from "react";
import { stream } from "tokenwire";

const NOTHING = { text: "", state: "idle", error: null, reconnects: 0 };

/** `ask` starts an answer and aborts the one before, `stop` cancels it at the model, `cut` drops the connection. */
export function useTokenStream(options) {
  const [answer, setAnswer] = useState(NOTHING);
  const current = useRef(null);

  const leave = useCallback(() => {
    current.current?.abort.abort();
    current.current = null;
  }, []);
  useEffect(() => leave, [leave]);

  const ask = useCallback(
    (input) => {
      leave();
      const abort = new AbortController();
      const tokens = stream({ ...options, input, signal: abort.signal });
      current.current = { abort, tokens };
      setAnswer({ ...NOTHING, state: "connecting" });
      const show = () => {
        if (current.current?.tokens !== tokens) return;
        const { text, state, reconnects } = tokens;
        setAnswer((last) => ({ ...last, text, state, reconnects }));
      };
      for (const type of ["delta", "reset", "status", "done"]) tokens.on(type, show);
      tokens.response.then(show, (error) => {
        if (current.current?.tokens === tokens) setAnswer((last) => ({ ...last, state: tokens.state, error: error.explanation ?? error.message }));
      });
    },
    [leave, options],
  );
  const stop = useCallback(() => void current.current?.tokens.cancel().catch(() => {}), []);
  const cut = useCallback(() => current.current?.tokens.cut(), []);
  return { ...answer, ask, stop, cut };
}
