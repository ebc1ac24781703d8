// The page's security policy asks for trusted types: nothing can become HTML here, and scripts come from this site alone.

interface TrustedTypes {
  createPolicy(name: "default", rules: { createScriptURL(url: string): string }): void;
}

const { trustedTypes } = globalThis as { trustedTypes?: TrustedTypes };
trustedTypes?.createPolicy("default", {
  createScriptURL(address) {
    const url = new URL(address, document.baseURI);
    if (url.origin !== location.origin) throw new TypeError(`a script of another site: ${url.origin}`);
    return url.href;
  },
});
