export function resumingFetch(request = (url, init) => fetch(url, init), waitsMs = [0, 250, 1000, 4000]) {
  return async (url, init) => {
    let lastId, isOver = false, reader;
    const open = async () => {
      const headers = lastId ? { ...init.headers, 'Last-Event-ID': lastId } : init.headers;
      const response = await request(url, { ...init, headers });
      if (response.ok) reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      return response;
    };
    const first = await open();
    if (!first.ok) return first;
    let rest = '', failures = 0;
    const readFrame = async () => {
      while (!rest.includes('\n\n')) {
        const { done, value } = await reader.read();
        if (done) return null;
        rest += value;
      }
      const end = rest.indexOf('\n\n') + 2;
      const frame = rest.slice(0, end);
      rest = rest.slice(end);
      return frame;
    };
    const body = new ReadableStream({
      async pull(controller) {
        try {
          const frame = await readFrame();
          if (frame === null) {
            if (!isOver) throw new Error('the stream was cut');
            controller.close();
            return;
          }
          failures = 0;
          lastId = /^id: (.*)$/m.exec(frame)?.[1] ?? lastId;
          isOver ||= /^data: \{"type":"RUN_(FINISHED|ERROR)"/m.test(frame);
          controller.enqueue(new TextEncoder().encode(frame));
        } catch (error) {
          if (init.signal?.aborted || failures === waitsMs.length) throw error;
          await new Promise((resume) => setTimeout(resume, waitsMs[failures++]));
          rest = '';
          const again = await open().catch(() => null);
          if (again && !again.ok && again.status < 500) throw new Error(`HTTP ${again.status}`);
          controller.enqueue(new TextEncoder().encode(': resumed\n\n'));
        }
      },
      cancel: () => reader.cancel(),
    });
    return new Response(body, { status: first.status, headers: first.headers });
  };
}
